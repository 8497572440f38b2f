"""What a worker gives back after a peak, and when."""

from gateway.memory import BUSY_LOOKS, GROWTH_BYTES, Peaks


class Machine:
    """A process whose size a test sets; giving back shrinks it to what is in use."""

    def __init__(self) -> None:
        self.size = self.used = 100
        self.given_back = 0

    def give_back(self) -> None:
        self.given_back += 1
        self.size = self.used


def test_a_peak_is_given_back_once_it_is_over() -> None:
    machine = Machine()
    peaks = Peaks(lambda: machine.size, machine.give_back)
    assert not peaks.look(busy=False)
    machine.size += GROWTH_BYTES
    assert not peaks.look(busy=True), "calls are running"
    assert peaks.look(busy=False)
    assert machine.size == machine.used
    assert not peaks.look(busy=False)


def test_a_worker_that_is_never_idle_gives_back_too_but_not_again_and_again() -> None:
    machine = Machine()
    peaks = Peaks(lambda: machine.size, machine.give_back)
    machine.size = machine.used = 100 + 2 * GROWTH_BYTES  # all of it is in use
    assert [peaks.look(busy=True) for _ in range(3 * BUSY_LOOKS)].count(True) == 1
    machine.used = 100  # what is free now was taken before
    machine.size += GROWTH_BYTES
    assert [peaks.look(busy=True) for _ in range(BUSY_LOOKS)][-1]
    assert machine.size == 100
    assert machine.given_back == 2
