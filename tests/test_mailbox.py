"""What tasks in other processes tell the scheduler arrives, or is dropped; it never holds up anybody."""

import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from superluigi.running import mailbox
from superluigi.running.mailbox import Address, Mailbox, send_to
from superluigi.running.task_process import Call

TIMEOUT_S = 20


class Taken(list):
    """What arrived."""

    def take(self, _process: None, call: Any) -> None:
        self.append(call)


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def box(taken: Taken) -> Iterator[Mailbox]:
    box = Mailbox(taken)
    yield box
    closing = threading.Thread(target=box.close, daemon=True)
    closing.start()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()


def sent(address: Address, call: Any) -> bool:
    """Send in a thread, so that the test ends if it never comes back."""
    answers: list[bool] = []
    sending = threading.Thread(target=lambda: answers.append(send_to(address, call)), daemon=True)
    sending.start()
    sending.join(TIMEOUT_S)
    assert not sending.is_alive()
    return answers[0]


def a_call(*args: Any) -> Call:
    return Call("set_task_status_message", args, {})


def test_calls_arrive_in_order_and_are_confirmed(box: Mailbox, taken: Taken) -> None:
    assert [sent(box.address, a_call(number)) for number in range(3)] == [True, True, True]
    assert sent(box.address, None)

    assert taken == [a_call(number) for number in range(3)]


@pytest.mark.parametrize("said", [b"", struct.pack("!i", 1000) + b"x"], ids=["nothing", "half a message"])
def test_a_connection_that_says_nothing_holds_up_nobody(
    box: Mailbox, taken: Taken, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.name == "posix":
        monkeypatch.setattr(mailbox, "_PATIENCE", struct.pack("ll", 0, 50_000))
    with socket.create_connection(("127.0.0.1", box.address.port)) as silent:
        silent.sendall(said)

        assert sent(box.address, a_call("heard"))
        assert taken == [a_call("heard")]


def test_what_does_not_bear_the_key_is_not_taken(box: Mailbox, taken: Taken) -> None:
    assert not sent(Address(box.address.port, bytes(32)), a_call("false"))
    assert sent(box.address, a_call("true"))

    assert taken == [a_call("true")]


def test_what_does_not_pickle_is_dropped_and_does_not_fail_the_task(box: Mailbox, taken: Taken) -> None:
    assert not sent(box.address, a_call(lambda: None))
    assert sent(box.address, a_call("next"))

    assert taken == [a_call("next")]


def test_what_cannot_be_loaded_here_is_dropped_and_its_task_goes_on(
    box: Mailbox, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Absent, "__module__", "a_module_of_the_other_process")
    monkeypatch.setitem(sys.modules, "a_module_of_the_other_process", sys.modules[__name__])
    call = a_call(Absent())
    loads = mailbox.pickle.loads

    def without_the_module(data: bytes) -> Any:
        with monkeypatch.context() as here:
            here.delitem(sys.modules, "a_module_of_the_other_process")
            return loads(data)

    monkeypatch.setattr(mailbox.pickle, "loads", without_the_module)

    assert sent(box.address, call)
    assert sent(box.address, a_call("next"))
    assert taken == [a_call("next")]


class Absent:
    """Of a module that only the sender has."""


def test_a_mailbox_that_is_closed_is_not_there(taken: Taken) -> None:
    box = Mailbox(taken)
    assert sent(box.address, a_call("before"))
    box.close()

    assert not sent(box.address, None)
    assert taken == [a_call("before")]


def test_a_mailbox_that_does_not_answer_is_there_and_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "_ANSWER_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as door:
        assert sent(Address(door.getsockname()[1], bytes(32)), None)
