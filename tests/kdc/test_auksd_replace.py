"""When a worse ticket is offered: answered as AUKS' protocol demands, and the reason is in log and audit log."""

import json

from auksd_box import Auksd, login, make_realm, uid_of

from hipercow_slurm.wire import messages as m

GAMES = uid_of("games")


async def test_a_worse_ticket_is_answered_with_success_and_noted_with_both_times(tmp_path):
    """AUKS drops it and says nothing anywhere."""
    with make_realm(tmp_path):
        good, worse = (login(tmp_path, "games", renew_s=seconds) for seconds in (200_000, 100_000))
        shorter = login(tmp_path, "games", lifetime_s=3600, renew_s=150_000)
        audit = tmp_path / "audit.log"
        box = Auksd(tmp_path / "daemon", tmp_path)
        box.config.write_text(box.config.read_text() + f'[audit]\npath = "{audit}"\n')
        with box:
            client = box.client()
            for cred in (good, worse, shorter):
                await client.add(cred)  # raises unless the answer is 23
            assert (await client.get(GAMES, auth=good)).der == good.der
            logged = box.lines("auksd.request", verb="add", result="kept-better")
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert m.AddReply.TYPE == 23
    told = [line for line in lines if line.get("verb") == "add" and line.get("result") == "kept-better"]
    assert len(told) == len(logged) == 2, lines
    for line, text, cred in zip(told, logged, (worse, shorter), strict=True):
        times = f"endtime={cred.times.endtime} renew_till={cred.times.renew_till}"
        stored = f"stored_endtime={good.times.endtime} stored_renew_till={good.times.renew_till}"
        assert times in line["why"] and stored in line["why"], line
        assert times in text and stored in text, text
        assert (line["uid"], line["who"]) == (GAMES, "games@REALM.TEST")
