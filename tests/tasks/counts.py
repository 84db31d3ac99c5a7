"""Counts of full iGSM that do not depend on names, and whether two generators agree on them."""

from collections import Counter
from collections.abc import Mapping

import torch

from noiselab.tasks.igsm.full import FullProblem, solution_hash
from noiselab.tasks.igsm.structure import ABSTRACT
from noiselab.tasks.igsm.text import sketch


def measure(problem: FullProblem) -> dict[str, int]:
    """The counts of one problem, in the order of its solution."""
    dependency, order = problem.dependency, problem.order
    structure, said = dependency.structure, [definition for _, definition in dependency.definitions]
    totals = [quantity for quantity in order if quantity.kind == ABSTRACT]
    needed = set(order)
    unused = [definition for quantity, definition in dependency.definitions if quantity not in needed]
    return {
        "question asks for a total": problem.query.kind,
        "answer": problem.value,
        "answer is zero": int(problem.value == 0),
        "totals of a solution": len(totals),
        "totals of nothing": sum(not dependency.needs[total] for total in totals),
        "totals over several layers": sum(total.of > total.layer + 1 for total in totals),
        "operations": problem.ops,
        "steps": len(order),
        "most operations of a step": max(map(dependency.ops, order)),
        "sentences": len(said),
        "sentences not needed": len(unused),
        "layers": len(structure.items),
        "items": sum(map(len, structure.items)),
        "items without children": sum(not below for layer in structure.children for below in layer),
        "operands of sentences": sum(len(d.operands) + (d.number is not None) for d in said),
        "operands of needed sentences": sum(
            len(d.operands) + (d.number is not None) for q, d in dependency.definitions if q in needed
        ),
        "sentences with a number": sum(d.number is not None for d in said),
        "sentences with a factor": sum(d.factor for d in said),
        "sentences with a difference": sum(d.difference for d in said),
        "totals in sentences not needed": sum(q.kind == ABSTRACT for d in unused for q in d.operands),
        "tens of words of the template": len(sketch(dependency, order).split()) // 10,
        "bin of the template": solution_hash(problem),
    }


def count(problems: list[FullProblem]) -> dict[str, Counter[int]]:
    """How many problems have each value of each count."""
    measured = [measure(problem) for problem in problems]
    return {what: Counter(one[what] for one in measured) for what in measured[0]}


def same_law(one: Mapping[int, int], other: Mapping[int, int], *, least: float = 5) -> float:
    """The p-value of Pearson's test that two samples have the same law.

    Neighbouring values are put together until the smaller sample expects `least` of them.
    """
    sizes = torch.tensor([sum(one.values()), sum(other.values())], dtype=torch.float64)
    share = (sizes.min() / sizes.sum()).item()
    groups: list[list[int]] = [[0, 0]]
    for value in sorted({*one, *other}):
        if sum(groups[-1]) * share >= least:
            groups.append([0, 0])
        groups[-1][0] += one.get(value, 0)
        groups[-1][1] += other.get(value, 0)
    if sum(groups[-1]) * share < least and len(groups) > 1:
        last = groups.pop()
        groups[-1] = [a + b for a, b in zip(groups[-1], last, strict=True)]
    if len(groups) == 1:
        return 1.0
    table = torch.tensor(groups, dtype=torch.float64)
    expected = table.sum(1, keepdim=True) * sizes / sizes.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(groups) - 1) / 2).double(), statistic / 2).item()
