"""What ``postgres.py`` says to the server. Tables are found by the connections' search_path (``pg_link``)."""

ONE = """
SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless, key_id, wrapped, sealed, version
FROM credential WHERE uid = $1
"""
SEVERAL = """
SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless, key_id, wrapped, sealed
FROM credential WHERE uid = ANY($1::bigint[])
"""
INSERT = """
INSERT INTO credential (uid, principal, starttime, endtime, renew_till, tickets, addressless, key_id, wrapped, sealed,
    version, due)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT DO NOTHING RETURNING uid
"""
# The claim stays: whoever renews the old one at this moment gives it back and finds the new one's due time.
REPLACE = """
UPDATE credential SET principal = $2, starttime = $3, endtime = $4, renew_till = $5, tickets = $6,
    addressless = $7, key_id = $8, wrapped = $9, sealed = $10, version = $11, due = $12, failures = 0
WHERE uid = $1 AND version = $13 RETURNING uid
"""
DELETE = "DELETE FROM credential WHERE uid = $1 AND version = $2 RETURNING uid"
OTHER_KEYS = """
SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless, key_id, wrapped, sealed, version
FROM credential WHERE key_id <> $1 LIMIT $2
"""
REWRAP = "UPDATE credential SET key_id = $1, wrapped = $2 WHERE uid = $3 AND version = $4 AND key_id = $5"
BEAT = """
INSERT INTO instance VALUES ($1, $2, $3, clock_timestamp() + $4)
ON CONFLICT (id) DO UPDATE SET key_id = $3, alive_until = clock_timestamp() + $4
"""
HOLD = """
UPDATE credential SET claimed_until = clock_timestamp() + $1 WHERE claimed_by = $2 AND uid = ANY($3::bigint[])
"""
CLAIM = """
WITH turn AS (
    SELECT uid FROM credential
    WHERE due <= $1 AND endtime > $1 AND claimed_until < clock_timestamp()
    ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE credential c SET claimed_by = $3, claimed_until = clock_timestamp() + $4
FROM turn WHERE c.uid = turn.uid RETURNING c.uid, c.failures, c.version
"""
OVER = "SELECT uid FROM credential WHERE due <= $1 AND endtime <= $1 ORDER BY due LIMIT $2"
SETTLE = """
UPDATE credential SET claimed_by = NULL, claimed_until = '-infinity',
    due = CASE WHEN version = $3 THEN $4 ELSE due END, failures = CASE WHEN version = $3 THEN $5 ELSE failures END
WHERE uid = $1 AND claimed_by = $2
"""
PLAN = "UPDATE credential SET due = $2 WHERE uid = $1"
NEXT = "SELECT min(due) FROM credential WHERE claimed_until < clock_timestamp()"


ENTRIES = "SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless FROM credential ORDER BY uid"
EVERY = """
SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless, key_id, wrapped, sealed
FROM credential ORDER BY uid
"""
NEW_KEY = "INSERT INTO store_key VALUES ($1) ON CONFLICT DO NOTHING"
DROP_KEY = "DELETE FROM store_key WHERE key_id = $1"
RETIRE_KEY = "INSERT INTO retired_key VALUES ($1) ON CONFLICT DO NOTHING"
RECORDS = "SELECT key_id, count(*) FROM credential GROUP BY key_id"
RETIRED = "SELECT key_id FROM retired_key"
KNOWN = "SELECT key_id FROM store_key"
SEALING = "SELECT DISTINCT key_id FROM instance WHERE alive_until > clock_timestamp()"
FORGET_DEAD = "DELETE FROM instance WHERE alive_until < clock_timestamp() - interval '1 hour'"
LEAVE = "DELETE FROM instance WHERE id = $1"
LET_GO = "UPDATE credential SET claimed_by = NULL, claimed_until = '-infinity' WHERE claimed_by = $1"
