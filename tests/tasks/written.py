"""A small problem written by hand, with values and without."""

from noiselab.tasks.igsm import Rule, SmallProblem

# cat is 3 * 4 = 2 modulo 5, dog 4 + 2 = 1, elk 1, ant 1 + 4 = 0; fox and gnu are not needed.
RULES = (
    ("gnu", Rule(("fox", "dog"))),
    ("ant", Rule(("elk", "bee"))),
    ("bee", Rule((), 4)),
    ("dog", Rule(("bee", "cat"))),
    ("fox", Rule((), 2)),
    ("elk", Rule(("dog",))),
    ("cat", Rule(("bee",), 3)),
)
ORDER = ("bee", "cat", "dog", "elk", "ant")
WRITTEN = SmallProblem("nano", RULES, ORDER)
STEPS = (
    "D bee as 4 .",
    "D cat as 3 * bee = 3 * 4 = 2 .",
    "D dog as bee + cat = 4 + 2 = 1 .",
    "D elk as dog = 1 .",
    "D ant as elk + bee = 1 + 4 = 0 .",
)
LOGIC = SmallProblem("logic", tuple((name, Rule(rule.operands)) for name, rule in RULES), ORDER)
LOGIC_STEPS = ("D bee as known .", "D cat as bee .", "D dog as bee , cat .", "D elk as dog .", "D ant as elk , bee .")
