"""The noise of a foreign noiselab.json runs no code and takes no memory: it is refused in words that name the place."""

import copy
import json
import sys

import pytest
from small import pipeline

import noiselab as nl
from noiselab import t
from noiselab.pipeline import ModelSettings, Pipeline
from noiselab.processes import process_from, settings_of


def tree():
    return settings_of(nl.Interpolation(1 - t, {nl.Absorbing(4, 5): t, nl.Uniform.without(5, 4): 0.5 * t * (1 - t)}))


def put(place, value):
    """The tree with another value at a place, such as ("noises", 1, "weight")."""
    changed = inner = copy.deepcopy(tree())
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return changed


def deep(depth):
    inner = "t"
    for _ in range(depth):
        inner = {"kind": "negative", "inner": inner}
    return inner


def inverses(depth):
    inner = {"kind": "-", "left": 1, "right": "t"}
    for _ in range(depth):
        inner = {"kind": "inverse", "inner": {"kind": "-", "left": 1, "right": "t"}, "value": inner}
    return inner


WEIGHT, MIXING = ("noises", 1, "weight"), ("noises", 0, "mixing")
W, M = "noise.noises[1].weight", "noise.noises[0].mixing"
BAD = {
    "an unknown kind": (
        put(WEIGHT, {"kind": "snow"}),
        W + ".kind must name a schedule",
    ),
    "a mixing as schedule": (
        put(WEIGHT, tree()["noises"][0]["mixing"]),
        W + ".kind must name a schedule",
    ),
    "a schedule as mixing": (
        put(MIXING, {"kind": "negative", "inner": "t"}),
        M + ".kind must name a mixing",
    ),
    "a schedule as process": ({"kind": "negative", "inner": "t"}, "noise.kind must name a process"),
    "an unknown field": (
        put((*WEIGHT, "power"), 2),
        W + ".power must be an argument of '*'",
    ),
    "an unknown field above": ({**tree(), "clock": "t"}, "noise.clock must be an argument of 'Interpolation'"),
    "a field is missing": ({"kind": "Interpolation", "signal": "t"}, "noise.noises must be given"),
    "a field of a pair": (
        put(("noises", 1), {"mixing": 3}),
        "noise.noises[1] must be an object with `mixing` and `weight`",
    ),
    "a number for a mixing": (put(MIXING, 3), M + " must name a mixing"),
    "a number for a process": (
        {"kind": "ChangeOfTime", "process": 3, "clock": "t"},
        "noise.process must name a process",
    ),
    "a number for a list": (put(("noises",), 3), "noise.noises must be a list of objects"),
    "a list for a schedule": (put(WEIGHT, [1, "t"]), W + " must be a schedule: a number"),
    "true for a number": (put(WEIGHT, True), W + " must be a schedule"),
    "NaN": (put(WEIGHT, float("nan")), W + " must be a finite number; got nan"),
    "infinity": (put((*WEIGHT, "right"), float("inf")), W + ".right must be a finite number"),
    "a number too large": (put(WEIGHT, 10**400), W + " must be a finite number"),
    "a domain of text": (put(("domain",), ["0", "1"]), "noise.domain[0] must be a finite number"),
    "a domain of three": (put(("domain",), [0, 0.5, 1]), "noise.domain must be two times"),
    "a fraction for a token": (
        put((*MIXING, "token"), 4.0),
        M + ".token must be a whole number",
    ),
    "a token outside": (
        put((*MIXING, "token"), 7),
        M + ": the absorbing token must lie in [0, 5)",
    ),
    "a huge vocabulary": (
        put((*MIXING, "vocab_size"), 10**12),
        M + ".vocab_size must lie in [0, 4194304]",
    ),
    "a huge family": (
        {"family": "gidd", "vocab_size": 10**9, "mask_id": 1, "p_uniform": 0.1},
        "noise.vocab_size must lie",
    ),
    "a huge set": (put(("support",), {"vocab_size": 10**10, "only": [1]}), "noise.support.vocab_size must lie"),
    "a set of tokens outside": (
        put(("support",), {"vocab_size": 5, "only": [5]}),
        "noise.support.only must be a list of tokens",
    ),
    "a set of text": (put(("support",), "all"), "noise.support must be the size of the vocabulary"),
    "a row of text": (
        put(MIXING, {"kind": "Unigram", "row": ["0.5", 0.5]}),
        M + ".row[0] must be numbers",
    ),
    "a row of NaN": (
        put(MIXING, {"kind": "Unigram", "row": [0.5, float("nan")]}),
        "mixing.row must be finite numbers",
    ),
    "a ragged row": (
        put(MIXING, {"kind": "Unigram", "row": [[0.5], [0.5, 1]]}),
        "mixing.row must be numbers of float64 in lists",
    ),
    "a huge learned schedule": (
        put(WEIGHT, {"kind": "MonotoneNetwork", "width": 10**6}),
        "weight: width must be at most 4096",
    ),
    "parameters of another": (
        put(
            WEIGHT, {"kind": "LearnedConstant", "value": 1, "parameters": {"power": {"tensor": "float64", "values": 1}}}
        ),
        "weight.parameters.power must be real numbers of one of these parameters and shapes, {'log_value': []}",
    ),
    "a dtype that is none": (
        put(
            WEIGHT, {"kind": "LearnedConstant", "value": 1, "parameters": {"log_value": {"tensor": "os", "values": 1}}}
        ),
        "parameters.log_value.tensor must be one of float64",
    ),
    "a place that is none": (
        put(WEIGHT, {"same_as": "noise.clock"}),
        "weight.same_as must be the place of an earlier schedule",
    ),
    "its own place": (
        put(WEIGHT, {"same_as": "noise.noises[1].weight"}),
        "weight.same_as must be the place of an earlier",
    ),
    "another's place": (
        put(WEIGHT, {"same_as": "noise.noises[0].mixing"}),
        "weight.same_as must be the place of an earlier",
    ),
    "depth": (put(WEIGHT, deep(60)), "must be nested at most 48 deep"),
    "a thousand levels": (put(WEIGHT, deep(300)), "must be nested at most 48 deep"),
    "inverses in inverses": (put(WEIGHT, inverses(5)), "have at most 2 inverses in one another"),
    "many parts": (put(("noises",), tree()["noises"] * 4000), "must be part of a tree of at most 10000 parts"),
    "an unknown family": ({"family": "snow"}, "noise.family must be one of"),
    "a family within": (
        {"kind": "ChangeOfTime", "clock": "t", "process": {"family": "snow"}},
        "noise.process.family must be one",
    ),
    "a process that is none": (put(("signal",), 2), "noise: alpha must fall to 0 at t = 1"),
    "nothing": ({}, "noise.family must be one of"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_noise_is_refused_with_its_place(what):
    noise, words = BAD[what]
    with pytest.raises(ValueError) as error:
        process_from(noise)
    assert words in str(error.value)


def test_references_do_not_multiply_the_work():
    """Each part refers twice to the one before: 2^40 evaluations, if it were read."""
    noises = [{"mixing": {"kind": "Uniform", "tokens": 5}, "weight": {"kind": "LearnedConstant", "value": 1}}]
    for i in range(40):
        before = {"same_as": f"noise.noises[{i}].weight"}
        noises.append(
            {"mixing": {"kind": "Uniform", "tokens": 5}, "weight": {"kind": "+", "left": before, "right": before}}
        )
    with pytest.raises(ValueError, match="must be part of a tree of at most 10000 parts"):
        process_from({"kind": "Interpolation", "signal": "t", "noises": noises})


CODE = [
    "__import__('os').system('touch {mark}')",
    "os.system",
    "os:system",
    "subprocess.Popen",
    "!!python/object/apply:os.system ['touch {mark}']",
    "lambda t: open('{mark}', 'w')",
    "builtins.open",
    "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}",
]
PLACES = [
    ("kind",),
    (*WEIGHT, "kind"),
    WEIGHT,
    (*WEIGHT, "left"),
    (*MIXING, "kind"),
    (*MIXING, "token"),
    ("support",),
    ("signal",),
]


@pytest.mark.parametrize("text", CODE)
def test_code_in_a_file_is_refused_and_not_run(text, tmp_path):
    mark, before = tmp_path / "ran", set(sys.modules)
    text = text.format(mark=mark)
    changed = [put(place, text) for place in PLACES]
    changed += [{"kind": text, "args": [f"touch {mark}"]}, {"family": text}, {**tree(), text: f"touch {mark}"}]
    changed += [put(WEIGHT, {"py/object": text}), put(WEIGHT, {"kind": "Function", "function": text})]
    changed += [{"family": "masked", "vocab_size": 5, "mask_id": 4, "signal": text}]
    for noise in changed:
        with pytest.raises(ValueError, match=r"^noise"):
            process_from(json.loads(json.dumps(noise)))
    assert not mark.exists() and set(sys.modules) == before


def test_private_names_of_the_registry_are_no_way_in():
    for name in ("Function", "ByClock", "_Inverse", "Time", "Schedule", "InterpolatingProcess", "torch.nn.Linear", ""):
        with pytest.raises(ValueError, match="must name a"):
            process_from(put(WEIGHT, {"kind": name}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"version": 3},
            "version must be a whole number from 1 to 2, which this version of noiselab reads; got 3: a newer",
        ),
        ({"version": "2"}, "version must be a whole number from 1 to 2"),
        ({"version": True}, "version must be"),
        ({"version": None}, "version must be"),
        ({"version": 0}, "version must be"),
        ({"version": 2, "noises": []}, "must be a JSON object of"),
        ({"version": 2, "noise": 3}, "noise must be an object or null"),
        ({"version": 2, "noise": [tree()]}, "noise must be an object or null"),
        ({"version": 2, "noise": tree(), "generation": {"steps": float("nan")}}, "steps"),
    ],
    ids=lambda found: str(found)[:30],
)
def test_files_of_another_format_are_refused(content, words, tmp_path):
    (tmp_path / "noiselab.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        ModelSettings.from_pretrained(tmp_path)


def test_a_depth_bomb_and_a_huge_file_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "noiselab.json"
    path.write_text('{"noise": ' + '{"kind": "negative", "inner": ' * 50_000 + "0" + "}" * 50_001)
    with pytest.raises(ValueError, match="must not be nested so deeply"):
        ModelSettings.from_pretrained(tmp_path)
    path.write_text(json.dumps({"noise": tree()}))
    monkeypatch.setattr("noiselab.pipeline.settings.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="it must have at most 100 bytes"):
        ModelSettings.from_pretrained(tmp_path)


def test_a_model_with_bad_noise_is_refused_by_its_place(tmp_path):
    pipeline().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "noiselab.json"
    file.write_text(json.dumps({"version": 2, "noise": put(WEIGHT, {"kind": "os.system"})}))
    with pytest.raises(ValueError, match=r"noise\.noises\[1\]\.weight\.kind must name a schedule"):
        Pipeline.from_pretrained(tmp_path / "model")
