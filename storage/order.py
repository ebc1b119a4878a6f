"""The queue's order, as SQL: priority, then who was served less, then age.

Decides: which queued row is next. Refuses to know: what happens to it. A statement that uses these
looks at the first entries of the index `jobs_queue` only, however many jobs wait.
"""

ORDER = "priority DESC, share_ms, number"
NEXT = (  # named, for SQLite would rather read all that wait, and sort them
    "SELECT number FROM jobs INDEXED BY jobs_queue WHERE state = 'queued'"
    " AND NOT EXISTS (SELECT 1 FROM switches WHERE name = 'paused')"
    f" ORDER BY {ORDER} LIMIT 1"
)
NEAR = (  # who was not served at all waits for nobody's model
    "WITH near AS MATERIALIZED (SELECT number, priority, share_ms, request FROM jobs"
    f" WHERE number IN ({NEXT.removesuffix('1')}8)),"
    f" head AS (SELECT priority, share_ms FROM near ORDER BY {ORDER} LIMIT 1)"
    " SELECT near.number FROM near, head WHERE near.priority = head.priority"
    " AND near.share_ms <= head.share_ms + iif(head.share_ms = 0, 0, :slack)"
    " ORDER BY json_extract(near.request, '$.variant') <> :loaded,"
    " near.share_ms, near.number LIMIT 1"
)
