import threading

from memograd.tracing.interposed import Interposed, together


class Base:
    def name(self):
        return "base"


class Owner(Base):
    pass


def test_ours_is_there_while_somebody_needs_it():
    ours = Interposed(Owner, "name", lambda self: "ours")
    inside, leave = threading.Event(), threading.Event()

    def other():
        with ours():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with ours():
        assert Owner().name() == "ours"
    assert Owner().name() == "ours"
    leave.set()
    thread.join()
    assert Owner().name() == "base" and "name" not in vars(Owner)


def test_what_stood_there_comes_back():
    before = vars(Base)["name"]
    try:
        with together(Interposed(Base, "name", lambda self: "ours")):
            assert Owner().name() == "ours"
            raise KeyError
    except KeyError:
        assert vars(Base)["name"] is before
