"""Signals become a request to stop."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxdistill.runtime.signals import Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_a_stop_and_the_handlers_are_restored(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with Interruption(lambda flag: flag) as interruption:
        assert not interruption.poll()
        os.kill(os.getpid(), number)
        assert interruption.poll()
        assert interruption.signal == number.name
    assert interruption.requested
    assert {each: signal.getsignal(each) for each in before} == before


def test_the_signal_of_another_process_requests_a_stop() -> None:
    answers = iter([False, True])
    with Interruption(lambda flag: next(answers)) as interruption:
        assert not interruption.poll()
        assert interruption.poll()
        assert interruption.poll(), "once requested, nobody is asked again"
    assert interruption.signal is None


def test_a_second_signal_ends_the_process() -> None:
    program = (
        "import os, signal\n"
        "from jaxdistill.runtime.signals import Interruption\n"
        "with Interruption(lambda flag: flag):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert not done.stdout


def test_in_another_thread_nothing_is_caught() -> None:
    found = []

    def run() -> None:
        with Interruption(lambda flag: flag) as interruption:
            found.append(interruption.poll())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
