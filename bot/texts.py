"""Every sentence people read on Discord, in one table; single words are in `bot.words`.

Decides: the English. Refuses to know: when it is said, and other languages: `languages/de.toml`
has the same keys in German (`bot.speech` reads it, `bot.translator` hands it to Discord). Values
are filled in with `say()`; what comes from people is escaped before (`bot.views.plain`).
"""

from __future__ import annotations

from enum import unique

from bot.speech import Table
from bot.speech import say as say


@unique
class Text(Table):
    """The table. `{name}` is filled in by `say`."""

    # /animate
    ANIMATE = "Make a picture move: a picture and a sentence become a video"
    ANIMATE_IMAGE = "The picture that the video starts from"
    ANIMATE_PROMPT = "What should happen, in a sentence: who moves, and how"
    ANIMATE_SECONDS = "Length in seconds, {low:g} to {high:g} (otherwise {default:g})"
    ANIMATE_SEED = "The same seed, picture and settings give the same video (otherwise random)"
    ANIMATE_STEPS = "Steps for each section, {low:g} to {high:g} (otherwise {default:g})"
    ANIMATE_PRESET = "Settings that were saved under a name; what you set here counts more"
    ANIMATE_QUALITY = "A draft is quick, the final video takes its time"
    QUALITY_DRAFT = "draft: quicker, fine detail may suffer"
    QUALITY_FINAL = "final: every step is computed"
    ANIMATE_MODEL = "Which model draws it (otherwise the one that is preferred here)"
    ANIMATE_SHAPE = "The video's shape; the picture is cut to it (otherwise as the picture)"
    SHAPE_PICTURE = "as the picture"
    SHAPE_SQUARE = "square, 1:1"
    SHAPE_PORTRAIT = "portrait, 9:16"
    SHAPE_LANDSCAPE = "landscape, 16:9"
    MODEL_I2V = "i2v: calm, keeps to the picture"
    MODEL_F1 = "f1: livelier, drifts more in long videos"
    ANIMATE_MOTION = "How much moves, {low:g} to {high:g}: more is livelier (otherwise as trained)"
    ANIMATE_CONSISTENCY = (
        "How firmly it keeps to what it made, {low:g} to {high:g} (else {default:g})"
    )
    ANIMATE_GUIDANCE = "How strictly it follows the prompt, {low:g} to {high:g} (else {default:g})"
    ANIMATE_NEGATIVE = "What should not be seen; takes twice as long"
    ANIMATE_RESOLUTION = "Side in pixels of a square of the video's area, {low} to {high}"
    ANIMATE_FPS = "Frames per second, {low} to {high} (otherwise {default})"
    ANIMATE_END_IMAGE = "A picture that the video ends with (i2v only)"
    ANIMATE_END_STRENGTH = "How strongly the end picture counts, {low:g} to {high:g} (otherwise 1)"
    ANIMATE_REFERENCE = "A picture of what should look the same throughout"
    ANIMATE_SPOILER = "Hide the video until somebody clicks it"
    PRESET_UNKNOWN = "There is no such preset. There are: {names}."
    PRESET_NONE = "none yet"
    TAKEN = "Got it. I am looking at your picture now."
    QUEUED = (
        "Your video is in the queue: {link}\nI will mention you in this channel when it is done."
    )
    QUEUED_NO_LINK = (
        "Your video is in the queue as `{job_id}`. Discord does not take my messages at the "
        "moment; the progress shows up in this channel as soon as it does."
    )
    REFUSED_IN_CHANNEL = "{owner}, about your `/animate`: {sentence}"

    # refusals
    MISSING_PERMISSIONS = (
        "I can not work in this channel: I need the permission {names} here. "
        "Ask somebody who runs this server to allow it, then try again."
    )
    CAN_NOT_POST = (
        "I can not post in this channel ({reason}), so I have not taken your job. "
        "Ask somebody who runs this server to let me post here, then try again."
    )
    SETTING_WRONG = "{sentence}."
    PROMPT_EMPTY = "Your prompt is empty. Write one sentence about what should move."
    PROMPT_LONG = "Your prompt has {length:,} characters; at most {limit:,} are allowed."
    SECONDS_LONG = "You asked for {seconds:g} seconds; here at most {limit:g} are allowed."
    TOO_MANY_WAITING = (
        "You already have {count} unfinished jobs, and {limit} is the most one person may have "
        "here. Wait for one to end, or `/cancel` one."
    )
    GATE_DRAINING = (
        "I take no new jobs at the moment; those that wait are finished. Try again later."
    )
    GATE_BANNED = "You may not use me on this server ({reason}). Ask those who run it."
    GATE_NO_REASON = "no reason was given"
    GATE_CHANNELS = "On this server I work only in {names}."
    GATE_NSFW = "On this server I work only in age-restricted channels."
    GATE_ROLES = "On this server I work only for {names}."
    GATE_BLOCKED = (
        "Your prompt holds a word that is not allowed here, so I have not looked at your picture. "
        "Put it another way."
    )
    GATE_NONE_A_DAY = "You may have no videos made on this server."
    GATE_DAY = (
        "You have had {count} videos made in the last 24 hours, and {limit} is the most here. "
        "The next is possible {when}."
    )
    PICTURE_GONE = "I do not have that picture any more; send it again with `/animate`"
    DISK_FULL = (
        "My disk is full, so I have not taken your job. Please tell whoever runs me, "
        "and try again later."
    )
    STORE_FAILED = (
        "I could not write your job down, so I have not taken it. Please tell whoever runs me, "
        "and try again later."
    )
    INTERNAL = (
        "Something went wrong on my side. Please tell whoever runs me the number `{error_id}`; "
        "the reason stands beside it in my log."
    )
    COMMAND_CHANGED = "My commands have just changed. Try again in a minute."
    GUILD_ONLY = "This works only on a server, not in direct messages."

    # /cancel
    CANCEL = "Cancel one of your jobs (the newest if you name none)"
    CANCEL_JOB = "Which job"
    CANCEL_CHOICE = "{job_id} · {state} · {prompt}"
    CANCELLED_QUEUED = "Cancelled `{job_id}`. It had not started yet."
    CANCELLED_BETWEEN = "Cancelled `{job_id}`, which waited for its next turn."
    CANCELLED_RUNNING = "Stopping `{job_id}`; this takes one step."
    CANCEL_NOTHING = "You have no job that could be cancelled."
    CANCEL_UNKNOWN = "I know no job `{job_id}`."
    CANCEL_NOT_YOURS = "Only {owner} and people who may manage messages here can cancel this job."
    CANCEL_OVER = "Job `{job_id}` is already over ({state})."
    CANCEL_ALL = "All {count} of them"
    CANCEL_ALL_ASKS = (
        "{count} of your jobs have finished sections and go on until you have answered, below, "
        "whether I shall send those."
    )
    FINISH_END = (
        "{made} of {sections} sections of `{job_id}` are finished. They are the **end** of the "
        "video: this model makes the end first, so what is done does not begin at your picture. "
        "Shall I send it? If you choose nothing, the job goes on."
    )
    FINISH_BEGINNING = (
        "{made} of {sections} sections of `{job_id}` are finished. They are the **beginning** of "
        "the video. Shall I send it? If you choose nothing, the job goes on."
    )
    FINISHING_RUNNING = "Stopping `{job_id}`. What is done becomes a video; it comes in a moment."
    FINISHING_QUEUED = "What is done of `{job_id}` becomes a video as soon as it has its next turn."

    # /jobs, /show
    JOBS = "Your newest jobs, with links"
    JOBS_NONE = "You have no jobs yet. `/animate` makes one of a picture and a sentence."
    JOBS_TITLE = "Your jobs"
    JOBS_LINE = "`{job_id}` · {state} · “{prompt}”{link}"
    LINK = " · [open]({url})"
    SHOW = "Show a finished video again, for your eyes only"
    SHOW_LOOKING = "I am fetching the video."
    SHOW_NOT_YET = "Job `{job_id}` has no video ({state})."
    SHOW_REFUSED = "Discord does not take the video here. Try again later; it is not lost."
    SHOW_GONE = "I can not post the file here any more: it is gone, or too large."

    # the menu's entry and its form
    MENU = "Animate this image"
    MENU_NO_PICTURE = "This message has no picture. Use the menu of a message with one attached."
    LINK_NO_PICTURE = (
        "This message has a link, but Discord shows no picture of it, and I open no links. "
        "Save the picture and attach it."
    )
    MENU_PRESET = "Preset (empty: none)"
    MENU_REFERENCES = "Pictures of what should look the same"

    # /presets
    PRESETS = "Settings under a name"
    PRESETS_LIST = "Your presets and this server's"
    PRESETS_SHOW = "The settings of one preset"
    PRESETS_SAVE = "Save the settings of one of your jobs under a name"
    PRESETS_DELETE = "Delete a preset"
    PRESETS_NAME = "The preset's name"
    PRESETS_JOB = "Whose settings (otherwise those of your newest job)"
    PRESETS_SERVER = "Everybody's on this server, for those who manage it, instead of yours alone"
    PRESETS_TITLE = "Presets"
    PRESETS_EMPTY = "There are none yet. `/presets save` keeps the settings of your newest job."
    PRESET_LINE = "`{name}`{whose} — {settings}"
    PRESET_SERVERS = " (this server's)"
    PRESET_USUAL = "the usual settings"
    PRESET_SAVED = "Saved as `{name}`: {settings}. Use it with `/animate preset:{name}`."
    PRESET_DELETED = "Deleted the preset `{name}`."
    PRESET_NOT_THERE = "There is no preset `{name}`; `/presets list` shows those that there are."
    PRESET_NAME = "A preset's name has 1 to 32 letters, digits, spaces, - or _; choose another."
    PRESET_FULL = "{limit} presets are the most; delete one with `/presets delete` first."
    PRESET_ADMINS = "The server's presets are for those who have the permission Manage Server."

    # /admin
    ADMIN = "For those who run this server and are named in my configuration"
    ADMIN_QUEUE_TEXT = "The queue of all servers"
    ADMIN_LIST_TEXT = "What runs and waits, with ids"
    ADMIN_PAUSE_TEXT = "Let no further job start; the running one goes on"
    ADMIN_RESUME_TEXT = "Let jobs start and be taken again"
    ADMIN_DRAIN_TEXT = "Take no new jobs; finish those that are there"
    ADMIN_CLEAR_TEXT = "Cancel every waiting job of this server"
    ADMIN_MOVE_TEXT = "Let a waiting job start sooner or later"
    ADMIN_REMOVE_TEXT = "Cancel somebody's job"
    ADMIN_RETRY_TEXT = "Do a failed or cancelled job again; post a video that was not posted"
    ADMIN_USER_TEXT = "What one person may do on this server"
    ADMIN_BAN_TEXT = "Let somebody have no videos made here, and cancel what they have waiting"
    ADMIN_UNBAN_TEXT = "Let somebody have videos made again"
    ADMIN_QUOTA_TEXT = "Give somebody limits of their own; what you leave out is as for all"
    ADMIN_PRIORITY_TEXT = "Let somebody's next jobs go before others (above 0) or after them"
    ADMIN_JOBS_TEXT = "Somebody's newest jobs here"
    ADMIN_LIMITS_TEXT = "What everybody may do on this server"
    ADMIN_LIMITS_SHOW = "This server's limits"
    ADMIN_LIMITS_SET = "Change limits; a channel, role or word that is listed already is taken away"
    ADMIN_LIMITS_RESET = "Forget this server's limits; the configuration's count again"
    ADMIN_GENERATOR_TEXT = "The process that makes the videos"
    ADMIN_STATUS_TEXT = "Device, memory, model, speed, uptime, and where the weights lie"
    ADMIN_RESTART_TEXT = "End and start it; a running job goes on from its last step"
    ADMIN_UNLOAD_TEXT = "Give its memory back; the next job loads the model again"
    ADMIN_VARIANT_TEXT = "Which model is loaded and preferred; name one to prefer it from now on"
    ADMIN_STATS_TEXT = "This server's jobs in figures"
    ADMIN_AUDIT_TEXT = "What admins did lately"
    ADMIN_NOT_YOU = (
        "This is for people who have the permission Manage Server here and are named in my "
        "configuration (`[admins]` in config.toml)."
    )
    ADMIN_WORKING = "One moment."
    ADMIN_LOGGED = "{actor}: **{action}** {target} ({reason})"
    ADMIN_SWITCHES = "The queue is: {switches}."
    ADMIN_NO_SWITCH = "open and running"
    ADMIN_CLEARED = "Cancelled {count} waiting jobs."
    ADMIN_NOT_WAITING = "Job `{job_id}` does not wait ({state}), so it can not be moved."
    ADMIN_MOVED = "Job `{job_id}` is at place {place} now."
    ADMIN_REMOVED = "Cancelled `{job_id}` of {owner}."
    ADMIN_NO_RETRY = "`{job_id}` is {state}; this is for what failed, was cancelled or not posted."
    ADMIN_DELIVERING = "The video of `{job_id}` is posted once more."
    ADMIN_RETRIED = "Job `{job_id}` is back in the queue."
    ADMIN_STANDING = (
        "{user}{banned} · waiting: {waiting} · per day: {per_day} · priority {priority}"
    )
    ADMIN_BANNED = " · **banned** ({reason})"
    ADMIN_USUAL = "as for all"
    ADMIN_NO_LIMIT = "no limit"
    ADMIN_LIMIT = "{name}: {value}"
    ADMIN_NOT_STARTED = "The generator does not run; the next job starts it."
    ADMIN_NO_START = "The generator does not start: {reason}. Mend that; I try again by myself."
    ADMIN_UNLOADED = "The generator gives its memory back; the next job loads the model again."
    ADMIN_SPEED = "{speed:.1f} s of work for a second of video"
    ADMIN_NO_SPEED = "no video has been made yet"
    ADMIN_GENERATOR = (
        "Model {model} on {device}, {dtype}. Up for {uptime}; {speed}.\n"
        "Where the weights lie: {placement}\nMemory: {memory}\n{variant}"
    )
    ADMIN_MEMORY = "{vram}{ram_used} of RAM used, {ram_free} free ({limit})"
    ADMIN_VRAM = "{used} of VRAM used, {free} of {total} free; "
    ADMIN_NO_MEMORY = "the generator does not say"
    ADMIN_VARIANT = "Loaded: {loaded}. Preferred: {preferred}."
    ADMIN_NO_VARIANT = "none"
    ADMIN_UNLOADS_LATER = (
        "The generator gives its memory back when the running job's turn is over. "
        "Pause the queue, or the next job loads the model again."
    )
    ADMIN_STARTING = "The generator is just starting. Try again when it is ready."
    ADMIN_RESTARTED = "The generator has been restarted."
    ADMIN_STATS = (
        "The last {days} days. Jobs: {states}\nVideo made: {video}\nMean wait: {wait} · "
        "mean work: {work}\nFailures:\n{failures}"
    )
    ADMIN_NO_AUDIT = "No admin has done anything yet."

    # /privacy, /help
    PRIVACY = "What I keep of you, and how to have it deleted"
    PRIVACY_DELETE = "Cancel your jobs and delete everything that is kept of you"
    PRIVACY_KEPT = (
        "Of each job I keep: your user id, the server and the channel, your prompt and settings, "
        "clean copies of your pictures without their place and camera data, the video, and when "
        "what happened. I keep your presets, and no other messages. Nothing leaves the computer "
        "that I run on, but for the messages that you see here.\n"
        "`/privacy delete_everything:True` deletes all of it. What I have posted stays in its "
        "channel: the videos, and the status messages with your prompt and your picture. Delete "
        "those first, with the button under each job that is over, or by hand. Bans, limits and "
        "what admins did are the server's and stay; how many videos you had stays counted until a "
        "day has passed."
    )
    PRIVACY_WORKING = "I am deleting what I keep of you."
    PRIVACY_DELETED = "Deleted: {count} jobs with their pictures and videos, and your presets."
    PRIVACY_LEFT = "{count} more are just ending; ask again in a minute to have them deleted too."
    HELP = "How to make a picture move"
    HELP_TEXT = (
        "**Make a video**: `/animate`, attach a picture and say in a sentence who moves, and how. "
        "Or open a message's menu → Apps → Animate this image.\n"
        "**What helps**: one clear movement, present tense, five seconds; `quality:draft` to try, "
        "the button *Final quality* when it looks right.\n"
        "**Your jobs**: `/jobs`, `/show`, `/cancel`; `/queue` shows how long the wait is.\n"
        "**Settings you like**: `/presets` saves them under a name.\n"
        "**Your data**: `/privacy`."
    )

    # /queue
    QUEUE = "Who is waiting, and how long it may take"
    QUEUE_EMPTY = "Nobody is waiting, and nothing is being made. `/animate` starts at once."
    QUEUE_TITLE = "The queue"
    QUEUE_RUNNING = "▶ {owner} · {seconds:g} s of video · {percent} %{left}"
    QUEUE_WAITING = "{position}. {owner} · {seconds:g} s of video{wait}"
    QUEUE_MORE = "… and {count} more"
    QUEUE_LEFT = " · done {time}"
    QUEUE_WAIT = " · starts {time}"
    QUEUE_PAUSED = "Paused: nothing starts until an admin resumes the queue."

    # the status message
    CARD_QUEUED = "Waiting in the queue"
    CARD_NEXT_TURN = "Waiting for its next turn"
    CARD_MADE = "{percent} % is made; others have a turn now"
    CARD_RUNNING = "Making the video"
    CARD_STOPPING = "Stopping"
    CARD_FINISHING = "Sending what is done"
    CARD_FINISH_NOW = "{made} of {sections} sections become the video"
    CARD_FINISH_LATER = "{made} of {sections} sections become the video at the next turn"
    CARD_UPLOADING = "Finished; the video is on its way"
    CARD_DELIVERED = "Finished"
    CARD_UNDELIVERABLE = "Finished, but the video could not be posted"
    CARD_FAILED = "No video"
    CARD_CANCELLED = "Cancelled"
    CARD_ASKED = "-# For <@{user}> · {seconds:g} s · {steps} steps · seed {seed}"
    CARD_POSITION = "Position {position} in the queue"
    CARD_NEXT = "Next in the queue"
    CARD_WAIT = "starts {time}"
    CARD_PAUSED = "the queue is paused"
    CARD_SECTION = "section {section} of {sections}"
    CARD_STEP = "step {step} of {steps}"
    CARD_BAR = "{bar} {percent} %"
    CARD_PACE = "{seconds:.1f} s a step"
    CARD_STARTED = "started {time}"
    CARD_REMAINING = "done {time}"
    CARD_AGAIN = "{what}; this is attempt {attempt}"
    CARD_TOOK = "Took {time}"
    PART_END = (
        "Only its end: the last {made} of {sections} sections, {seconds:.1f} of {total:g} s. "
        "It does not begin at the picture."
    )
    PART_BEGINNING = (
        "Only its beginning: the first {made} of {sections} sections, {seconds:.1f} of {total:g} s."
    )
    CARD_NOTE = "Note: {note}"
    CARD_FOOTER = "job {job_id}"
    CANCEL_BUTTON = "Cancel"
    AGAIN_BUTTON = "Again"
    EDIT_BUTTON = "Edit"
    FINAL_BUTTON = "Final quality"
    DELETE_BUTTON = "Delete"
    FINISH_BUTTON = "Send what is done"
    STOP_BUTTON = "Cancel without a video"

    # the buttons' answers
    JOB_FORGOTTEN = (
        "I have forgotten job `{job_id}` with its pictures and its video: its owner asked for "
        "that, or it ended more than {days:g} days ago. `/animate` makes a new one."
    )
    NOT_YOUR_BUTTON = "Only {owner} can use this button. `/animate` makes a video of your own."
    DELETE_LATER = "Job `{job_id}` is not over yet; cancel it first, or wait for its video."
    DELETED = "Deleted `{job_id}`: its messages here, its pictures and its video."
    DELETE_FAILED = (
        "The pictures and the video of `{job_id}` are deleted, but not its messages ({reason}). "
        "Whoever may manage messages here can delete them."
    )
    EDIT_TITLE = "Make it once more"
    EDIT_PROMPT = "What should happen"
    EDIT_SECONDS = "Length in seconds"
    EDIT_STEPS = "Steps for each section"
    EDIT_SEED = "Seed (empty: a new one)"
    EDIT_NEGATIVE = "What should not be seen (doubles the time)"
    NO_NUMBER = "“{typed}” is not a number. Nothing was started; try again."

    # the result
    DELIVERED = "<@{user}> your video is ready.\n{settings}"
    DELIVERED_DM = "Your video is ready. I could not post it in <#{channel}>.\n{settings}"
    SMALL_PRINT = (
        "-# {seconds:g} s · {variant} · {steps} steps{quality}{given_up} · seed {seed} · `{job_id}`"
    )
    DRAFT_MARK = " · draft"
    GIVEN_UP_MARK = " · made with {what} for want of memory"
    MADE_SMALLER = (
        "-# Made smaller to fit here: {was:.1f} MiB became {size:.1f} MiB. The original is kept."
    )
    REFUSED_SIZES = "Discord refuses {count} sizes of it"
    NO_SMALLER = "it can not be made small enough"
    TOO_LARGE = (
        "<@{user}> your video is ready, but with {size:.1f} MiB it is too large for Discord here. "
        "Whoever runs me finds it in my data folder as `{path}`."
    )
    REASON_TOO_LARGE = (
        "it has {size:.1f} MiB, and Discord refuses that here. Whoever runs me finds it in my data "
        "folder as `{path}`"
    )
    REASON_NOWHERE = (
        "neither this channel nor a direct message takes it ({reason}). `/show {job_id}` shows "
        "it to you, and whoever runs me finds it in my data folder as `{path}`"
    )
    REASON_FILE_GONE = "its file is not in the data folder any more"

    # failures
    LOST = "the generator broke down {attempts} times while it made this video; try other settings"
    NO_GENERATOR = (
        "the generator can not be started at the moment; whoever runs me finds the reason in the "
        "log"
    )
    NO_VIDEO = "the generator said that it was done, but there is no video; please try again"
    UNKNOWN_FAILURE = (
        "something went wrong on my side; whoever runs me finds the reason in the log beside the "
        "job's number"
    )
