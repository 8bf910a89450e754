"""What the log of a campaign says was learnt after its newest checkpoint."""

import json
from types import SimpleNamespace

from bayes_mlff.campaign.folders import Folders


def test_labels_that_were_learnt_after_a_checkpoint_are_known_by_round_and_walker(tmp_path):
    events = [
        {"event": "taken", "round": 3, "labels": [["a", 10, None]]},
        {"event": "round", "round": 3},
        {"event": "taken", "round": 5, "labels": [["b", 4, None], ["a", 12, "no SCF"]]},
        {"event": "resumed", "round": 4},
        {"event": "taken", "round": 6, "labels": [["b", 9, None]]},
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "tak')
    folders = Folders.__new__(Folders)
    folders._campaign = SimpleNamespace(walks=[SimpleNamespace(name="a"), SimpleNamespace(name="b")])
    folders.own = SimpleNamespace(events=path)
    assert folders.taken_after(3) == {5: {1: None, 0: "no SCF"}, 6: {1: None}}
    assert folders.taken_after(2)[3] == {0: None}
    assert folders.taken_after(6) == {}
