import threading
import time

import pytest

from service.budget import Budget
from service.errors import ClientLeftError, DeadlineError
from service.ticket import Ticket


def test_ticket_is_good_until_its_deadline():
    ticket = Ticket(60)
    ticket.check()
    assert 59 < ticket.remaining <= 60
    late = Ticket(0)
    assert late.remaining == 0
    with pytest.raises(DeadlineError, match="within 0 s"):
        late.check()


def test_cancelled_ticket_raises_its_first_error():
    ticket = Ticket(60)
    ticket.cancel(ClientLeftError("gone"))
    ticket.cancel(DeadlineError("late"))
    with pytest.raises(ClientLeftError):
        ticket.check()


def test_listeners_are_called_once_and_only_within_their_block():
    ticket = Ticket(60)
    heard: list[str] = []
    with ticket.watched(lambda error: heard.append("before")):
        pass
    with ticket.watched(lambda error: heard.append("within")):
        ticket.cancel(ClientLeftError("gone"))
        ticket.cancel(ClientLeftError("gone"))
    with ticket.watched(lambda error: heard.append("after")):
        pass
    assert heard == ["within", "after"]


def test_budget_is_never_exceeded_and_first_come_first_served():
    budget = Budget(10)
    held = [0, 0]  # now, most
    lock = threading.Lock()
    order: list[int] = []

    def work(number: int, amount: int) -> None:
        with budget.hold(amount, Ticket(30)):
            with lock:
                order.append(number)
                held[0] += amount
                held[1] = max(held)
            time.sleep(0.01)
            with lock:
                held[0] -= amount

    threads = []
    for number, amount in enumerate([9, 5, 5, 10, 1, 1]):
        threads.append(threading.Thread(target=work, args=(number, amount)))
        threads[-1].start()
        while len(budget._queue) + len(order) <= number:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert held[1] <= 10
    assert sorted(order[1:3]) == [1, 2]  # a small one may not pass the large one that came before it
    assert order[3] == 3


def test_more_than_the_whole_budget_gets_the_whole():
    budget = Budget(10)
    with budget.hold(1000, Ticket(1)), pytest.raises(DeadlineError), budget.hold(1, Ticket(0.05)):
        pass
    with budget.hold(1000, Ticket(1)):
        pass


def test_who_waits_for_the_budget_is_woken_when_its_client_leaves():
    budget = Budget(1)
    ticket = Ticket(60)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            with budget.hold(1, ticket):
                pass
        except ClientLeftError as error:
            raised.append(error)

    with budget.hold(1, Ticket(60)):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while len(budget._queue) < 1:
            time.sleep(0.001)
        ticket.cancel(ClientLeftError("gone"))
        waiting.join(10)
        assert raised
    with budget.hold(1, Ticket(1)):  # nothing was lost
        pass
