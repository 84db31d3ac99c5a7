"""A callback that is given twice is called once; two objects of one class are two callbacks, as in transformers."""

import pytest
import transformers
from toy_training import make
from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback, ProgressCallback

from noiselab.training.callbacks import Progress

SHORT = {"max_steps": 3, "save_steps": 9, "ema": None}


class StepCounter(transformers.TrainerCallback):
    steps = 0

    def __init__(self, name="default"):
        self.name = name

    def on_step_end(self, args, state, control, **_):
        type(self).steps += 1


@pytest.fixture(autouse=True)
def from_zero():
    StepCounter.steps = 0


def names(trainer, kind=StepCounter):
    return [getattr(found, "name", "") for found in trainer.callback_handler.callbacks if isinstance(found, kind)]


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("given", ["object", "class"])
def test_the_same_one_is_called_once(tmp_path, given, added, caplog):
    one = StepCounter("mine") if given == "object" else StepCounter
    trainer = make(tmp_path, callbacks=[one] if added else [one, one], **SHORT)
    if added:
        trainer.add_callback(one)
    trainer.train()
    assert len(names(trainer)) == 1 and StepCounter.steps == 3
    assert "StepCounter is there already; it is called once" in caplog.text


def test_two_objects_are_two_callbacks(tmp_path):
    trainer = make(tmp_path, callbacks=[StepCounter("a"), StepCounter("b")], **SHORT)
    trainer.add_callback(StepCounter("c"))
    trainer.train()
    assert names(trainer) == ["a", "b", "c"] and StepCounter.steps == 9


def test_the_trainer_adds_none_that_is_there(tmp_path, capsys):
    for number, bar in enumerate((Progress(), Progress, ProgressCallback, ProgressCallback())):
        trainer = make(tmp_path / str(number), callbacks=[bar, DefaultFlowCallback], disable_tqdm=False, **SHORT)
        kinds = [type(found) for found in trainer.callback_handler.callbacks]
        assert [kind for kind in kinds if issubclass(kind, ProgressCallback)] == [Progress]
        assert kinds.count(DefaultFlowCallback) == 1
    given = Progress()
    trainer = make(tmp_path / "given", callbacks=[given], disable_tqdm=False, **SHORT)
    assert given in trainer.callback_handler.callbacks
    trainer.train()
    assert capsys.readouterr().err.count("trained 3 steps") == 1


def test_printed_losses_are_printed_once(tmp_path, capsys):
    trainer = make(tmp_path, callbacks=[PrinterCallback], logging_steps=1, **SHORT)
    trainer.add_callback(PrinterCallback)  # `make` removed one
    trainer.train()
    assert capsys.readouterr().out.count("grad_norm") == 3
