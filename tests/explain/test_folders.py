"""Which operators lie in a folder together."""

from memograd.explain.folders import fold


def tree(calls, operators=None, root=""):
    folders, places = fold(calls, operators or [f"op{i}" for i in range(len(calls))], root)
    return folders, places


def test_calls_of_modules_are_folders_in_folders():
    net, a = ("net", 0), ("net.a", 0)
    folders, places = tree([(net, a), (net, a), (net,), (net,)])
    assert [(f.label, f.parent) for f in folders] == [("net", None), ("a", 0)]
    assert places == [1, 1, 0, 0]


def test_blocks_of_a_list_are_one_folder_that_says_how_many():
    calls, operators = [], []
    for k in range(4):
        calls += [((f"blocks.{k}", 0),)] * 2 + [()]
        operators += ["mul", "add", "relu"]
    folders, places = tree([((("head"), 0),)] * 2 + calls, ["x", "y", *operators])
    group = next(f for f in folders if f.kind == "group")
    assert (group.path, group.blocks) == ("blocks", 4)
    assert [f.label for f in folders if f.parent == folders.index(group)] == ["0", "1", "2", "3"]
    assert places[4] == folders.index(group)  # what stands between two blocks lies beside them


def test_calls_of_one_module_are_told_apart():
    calls = [(("cell", k),) for k in range(3) for _ in range(2)] + [()]
    folders, _ = tree(calls, ["a", "b"] * 3 + ["c"])
    assert [(f.kind, f.call, f.blocks) for f in folders] == [
        ("group", -1, 3),
        ("module", 0, 0),
        ("module", 1, 0),
        ("module", 2, 0),
    ]


def test_lists_that_take_turns_stay_apart():
    calls = [((f"{name}.{k}", 0),) for k in range(3) for name in ("up", "down") for _ in range(2)]
    assert not [f for f in tree(calls)[0] if f.kind == "group"]


def test_a_long_program_is_folded_in_runs_of_its_pattern():
    folders, places = tree([()] * 3000, ["mul", "sin", "add"] * 1000)
    inside = {}
    for place in places:
        inside[place] = inside.get(place, 0) + 1
    assert None not in inside and set(inside.values()) == {3}
    for parent in range(-1, len(folders)):
        assert sum(f.parent == (None if parent < 0 else parent) for f in folders) <= 64


def test_every_folder_is_an_interval():
    calls = [((f"m{(k // 3) % 2}", k // 6),) for k in range(24)]
    folders, places = tree(calls)
    for number in range(len(folders)):
        members = [i for i, p in enumerate(places) if number in way(folders, p)]
        assert members == list(range(members[0], members[-1] + 1))


def way(folders, place):
    found = []
    while place is not None:
        found.append(place)
        place = folders[place].parent
    return found
