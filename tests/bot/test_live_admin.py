"""An admin's words to the generator over real sockets, and who is no admin."""

from __future__ import annotations

import msgspec
from live import Live

from bot.config import AdminsConfig
from storage.jobs import Delivery

UPLOAD = "POST /channels/*/messages"


async def test_who_is_named_but_may_not_manage_the_server_is_no_admin(live: Live) -> None:
    playground = live.playground
    admins = AdminsConfig(user_ids=(playground.ben.id, playground.ada.id))
    config = msgspec.structs.replace(live.config, admins=admins)
    async with live.running(config=config):
        playground.api.commands.open_to_everyone("admin")  # as a server's admin may set it
        await live.animate()
        await live.video()
        for who, words in (
            (playground.ben, "named in my configuration"),
            (playground.ada, "Model fake on a fake, float32. Up for 0:0"),
            (playground.ada, "Where the weights lie: stream: 8.0 GiB of VRAM are too few"),
            (playground.ada, "Memory: 5.0 GiB of VRAM used, 2.0 GiB of 8.0 GiB free; 3.0 GiB of"),
            (playground.ada, "Loaded: i2v. Preferred: i2v."),
        ):
            asked = await playground.slash(who, playground.pictures, "admin generator status")
            await live.answer_says(asked, words)
        for verb, words in (
            ("unload", "gives its memory back"),
            ("status", "Loaded: none. Preferred: i2v."),
            ("restart", "has been restarted"),
            ("status", "Model fake"),
        ):
            command = f"admin generator {verb}"
            asked = await playground.slash(playground.ada, playground.pictures, command)
            await live.sees(lambda a=asked: a.response and a.response.content != "One moment.")
            assert words in asked.response.content
        await live.animate()
        await live.until(lambda: len(live.videos()) == 2)


async def test_what_could_not_be_posted_is_posted_when_an_admin_says_so(live: Live) -> None:
    playground = live.playground
    config = msgspec.structs.replace(
        live.config, admins=AdminsConfig(user_ids=(playground.ada.id,))
    )
    playground.close_dms(playground.ben)
    async with live.running(config=config):
        playground.faults.inject(UPLOAD, 403, code=50013, skip=1)  # the first is the status message
        await live.animate()
        await live.status_says("could not be posted")
        [job] = live.jobs()
        assert f"`/show {job.id}` shows it to you" in (job.error or "")
        asked = await playground.slash(playground.ben, playground.lounge, "show", {"job": job.id})
        await live.answer_says(asked, "seed ")
        assert asked.response is not None and len(asked.response.attachments) == 1
        for words in ("is posted once more", "finished; this is for"):
            asked = await playground.slash(
                playground.ada, playground.pictures, "admin queue retry", {"job": job.id}
            )
            await live.answer_says(asked, words)
            await live.video()
            await live.delivered_status()
            await live.until(lambda: live.jobs()[0].delivery is Delivery.DELIVERED)
        await live.status_says("Took ")
    assert len(live.videos()) == 1
