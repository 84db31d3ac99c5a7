import pytest
import torch
from several_processes import Ended, in_threads

from noiselab.distributed import ProcessError, Processes, join_processes
from noiselab.distributed.messages import digest, pack, unpack
from noiselab.distributed.processes import deal


def squares(numbers):
    """The square of each number, and that many zeros."""
    return ([torch.tensor(float(k * k), dtype=torch.float64), torch.zeros(k, dtype=torch.bool)] for k in numbers)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 6])
@pytest.mark.parametrize("same_calls", [False, True])
def test_each_process_has_all_results_in_order(world, count, same_calls):
    for found in in_threads(world, lambda own: own.collect(squares, count, same_calls=same_calls)):
        assert [value.item() for value, _ in found] == [0.0, 1.0, 4.0, 9.0, 16.0, 25.0][:count]
        assert [len(zeros) for _, zeros in found] == list(range(count))
        assert all(value.dtype == torch.float64 and zeros.dtype == torch.bool for value, zeros in found)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_each_part_is_done_once(world):
    dealt = [deal(5, rank, world) for rank in range(world)]
    assert sorted(number for part in dealt for number in part) == list(range(5))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_networks_with_sharded_weights_are_called_equally_often_by_all(world):
    dealt = [deal(5, rank, world, same_calls=True) for rank in range(world)]
    assert len(set(map(len, dealt))) == 1
    assert sorted(number for part in dealt for number in part if number < 5) == list(range(5))


def test_results_of_parts_that_are_done_again_do_not_count():
    done = []

    def work(numbers):
        for k in numbers:
            done.append(k)
            yield [torch.tensor(len(done))]

    found = in_threads(2, lambda own: own.collect(work, 3, same_calls=True))
    assert sorted(done) == [0, 0, 1, 2]  # process 1 does part 0 again
    assert [int(part) for (part,) in found[0]] == [int(part) for (part,) in found[1]]


def fail_in(rank, error):
    def work(own):
        def parts(numbers):
            for k in numbers:
                if own.rank == rank:
                    raise error
                yield [torch.tensor(k)]

        with own.together():
            return own.collect(parts, 6)

    return work


def test_an_error_of_one_process_ends_all_of_them_with_its_words():
    first, second, third = in_threads(3, fail_in(1, OSError("the disk is full")))
    assert isinstance(second, OSError)
    for other in (first, third):
        assert isinstance(other, ProcessError) and str(other) == "process 1 failed with OSError: the disk is full"


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_outside_of_the_divided_work_ends_all_of_them(when):
    def work(own):
        with own.together():
            if (own.rank, when) == (1, "before"):
                raise ValueError("no such file")
            own.collect(squares, 3)
            own.collect(squares, 4)
            if (own.rank, when) == (1, "after"):
                raise ValueError("no such file")

    first, second = in_threads(2, work)
    assert type(second) is ValueError
    assert isinstance(first, ProcessError) and str(first) == "process 1 failed with ValueError: no such file"


def test_errors_of_all_processes_are_those_of_one():
    def work(own):
        with own.together():
            raise ValueError("length must be positive")

    assert [str(found) for found in in_threads(3, work)] == ["length must be positive"] * 3


def test_the_processes_may_go_on_after_an_error_in_divided_work():
    def work(own):
        with pytest.raises((OSError, ProcessError)):
            fail_in(1, OSError("no"))(own)
        return [value.item() for value, _ in own.collect(squares, 3)]

    assert in_threads(2, work) == [[0.0, 1.0, 4.0]] * 2


def test_a_process_that_has_ended_does_not_keep_the_others():
    def work(own):
        if own.rank == 1:
            raise Ended
        return own.collect(squares, 3)

    assert isinstance(in_threads(2, work)[0], ProcessError)


@pytest.mark.parametrize("differs", ["number", "seed", "tensor", "count"])
def test_different_calls_are_refused(differs):
    def work(own):
        other = own.rank == 2
        seed = torch.Generator().manual_seed(int(other and differs == "seed"))
        about = [other and differs == "number", seed, torch.arange(3) + (other and differs == "tensor")]
        return own.collect(squares, 4 + (other and differs == "count"), about=about)

    found = in_threads(3, work)
    assert all(isinstance(error, ValueError) for error in found)
    assert "those of process 0 and of 2 differ" in str(found[0])
    assert "those of process 2 and of 0, 1 differ" in str(found[2])


def test_messages_keep_values_types_and_shapes():
    whole = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    parts = {7: [whole[1], whole.T], 0: [torch.empty(0, 3), torch.tensor(2**62)], 11: [torch.tensor([True, False])]}
    found = unpack(pack(parts))
    assert found.keys() == parts.keys()
    for number, own in parts.items():
        for a, b in zip(own, found[number], strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype
    assert unpack(pack({})) == {}


def test_generators_that_have_drawn_differ():
    random = torch.Generator().manual_seed(0)
    before = digest([random])
    assert before == digest([torch.Generator().manual_seed(0)])
    torch.rand(1, generator=random)
    assert digest([random]) != before


def test_a_script_that_torchrun_has_not_started_is_alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    own = join_processes("cpu")
    assert (own.rank, own.world, own.device.type, own.first) == (0, 1, "cpu", True)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_the_time_limit_is_positive(minutes):
    with pytest.raises(ValueError, match="minutes must be"):
        Processes(minutes=minutes)
