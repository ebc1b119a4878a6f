"""Commands, components and modals, from a person's input to what the person sees."""

from __future__ import annotations

import pytest
from small_bot import PNG_1X1, SmallBot

from bot.playground import ClientRefused, EventKind, Playground, Upload, plain_text

PICTURE = Upload(filename="a boat.png", data=PNG_1X1)


async def test_a_command_with_a_picture_is_answered_for_its_user_only(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await playground.slash(
        playground.ben, playground.pictures, "show", {"seconds": 2}, {"image": PICTURE}
    )
    answer = (await sent.answered()).response
    assert answer is not None
    assert answer.content == f"{len(PNG_1X1)} bytes, 1x1, 2 s"
    assert answer.ephemeral_for == playground.ben.id
    assert playground.messages(playground.pictures) == []
    assert 0 < sent.response_time_s < 3
    assert bot.interactions[0].app_permissions.attach_files
    assert bot.interactions[0].filesize_limit == 10 * 2**20


@pytest.mark.parametrize(
    ("options", "files", "reason"),
    [
        ({}, {}, "needs the option 'image'"),
        ({"seconds": 30.0}, {"image": PICTURE}, "30.0 is not between 0.1 and 20"),
        ({"seconds": "two"}, {"image": PICTURE}, "not a value of type number"),
        ({"speed": 1}, {"image": PICTURE}, "no option 'speed'"),
        ({"image": "boat.png"}, {}, "not a value of type attachment"),
    ],
)
async def test_the_client_sends_no_command_with_wrong_options(
    playground: Playground, bot: SmallBot, options: dict, files: dict, reason: str
) -> None:
    with pytest.raises(ClientRefused, match=reason):
        await playground.slash(playground.ben, playground.pictures, "show", options, files)
    assert not bot.interactions


async def test_a_command_must_be_registered_before_anybody_can_use_it(
    playground: Playground,
) -> None:
    with pytest.raises(ClientRefused, match="no command 'show'; registered are: none"):
        await playground.slash(playground.ben, playground.pictures, "show")


async def test_admin_commands_are_offered_to_admins_until_the_server_opens_them(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await playground.slash(playground.ada, playground.lounge, "admin queue")
    assert (await sent.answered()).response.content == "empty"
    with pytest.raises(ClientRefused, match="not offered to ben"):
        await playground.slash(playground.ben, playground.lounge, "admin queue")
    playground.api.commands.open_to_everyone("admin")
    sent = await playground.slash(playground.ben, playground.lounge, "admin queue")
    assert (await sent.answered()).response.content == "empty"


async def test_a_thinking_answer_becomes_the_follow_up(
    playground: Playground, bot: SmallBot
) -> None:
    sent = await playground.slash(playground.ben, playground.thread, "later")
    shown = await playground.wait_for(lambda e: e.kind is EventKind.MESSAGE_EDITED)
    assert shown.message.content == "done"
    assert shown.message.id == sent.response.id
    assert shown.message.ephemeral_for == playground.ben.id


async def test_choices_are_offered_while_typing(playground: Playground, bot: SmallBot) -> None:
    sent = await playground.autocomplete(
        playground.ben, playground.lounge, "colour", "name", {"name": "gr"}
    )
    await sent.answered()
    assert [choice["value"] for choice in sent.choices] == ["green", "grey"]


async def test_buttons_update_their_message(playground: Playground, bot: SmallBot) -> None:
    shown = await _show_buttons(playground)
    for custom_id, text in (("update", "updated"), ("later", "updated later")):
        await playground.press(shown, custom_id, playground.cleo)
        await playground.until(
            lambda text=text: playground.world.messages[shown.id].content == text
        )
    with pytest.raises(ClientRefused, match="'Off' is disabled"):
        await playground.press(shown, "off", playground.ben)
    with pytest.raises(ClientRefused, match="no button or menu 'gone'"):
        await playground.press(shown, "gone", playground.ben)


async def test_a_modal_takes_a_text_and_a_file(playground: Playground, bot: SmallBot) -> None:
    pressed = await playground.press(await _show_buttons(playground), "ask", playground.ben)
    await pressed.answered()
    assert pressed.modal["title"] == "More"
    with pytest.raises(ClientRefused, match="'text' needs a text"):
        await playground.submit_modal(pressed, {})
    sent = await playground.submit_modal(pressed, {"text": "hello", "picture": [PICTURE]})
    answer = (await sent.answered()).response
    assert answer.content == "got 'hello' and ['a_boat.png']"


async def test_a_message_command_sees_another_persons_files(
    playground: Playground, bot: SmallBot
) -> None:
    said = await playground.say(playground.cleo, playground.pictures, "mine", [PICTURE])
    sent = await playground.message_command(playground.ben, said, "Look at this")
    assert plain_text((await sent.answered()).response) == "'mine' with 1 files"
    assert "message '' 0" in bot.seen, "without the content intent the event shows nothing"


async def test_an_unanswered_command_fails_in_sight_of_its_user(playground: Playground) -> None:
    playground.api.interactions.answer_within_s = 0.05
    playground.api.commands.overwrite(None, [{"name": "slow", "description": "Never answers"}])
    sent = await playground.slash(playground.ben, playground.lounge, "slow")
    event = await playground.wait_for(lambda e: e.kind is EventKind.INTERACTION_FAILED)
    assert event.text == "The application did not respond"
    assert sent.has_failed


async def test_in_direct_messages_global_commands_work(
    playground: Playground, bot: SmallBot
) -> None:
    dm = playground.world.open_dm(playground.ben)
    sent = await playground.slash(playground.ben, dm, "show", {}, {"image": PICTURE})
    assert (await sent.answered()).response.content.endswith("5 s")


async def _show_buttons(playground: Playground):
    sent = await playground.slash(playground.ben, playground.lounge, "colour", {"name": "red"})
    answer = (await sent.answered()).response
    assert playground.messages(playground.lounge) == [answer]
    return answer
