"""Messages as they are on the wire, in hex, with the value each must be. Written down from the protocol notes."""

from hipercow_slurm.values import TicketTimes
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire import records

ALICE = records.Record(
    uid=5001,
    principal="alice@EX.ORG",
    times=TicketTimes(starttime=0x65000000, endtime=0x65008CA0, renew_till=0x65093A80),
    data=b"\x76\x03\x02\x01\x05",
    max_length=8,
)
ALICE_HEX = (
    "00000081"
    + b"alice@EX.ORG".ljust(129, b"\0").hex()
    + "00001389 65000000 65008ca0 65093a80 00000001 00000000 00000008 00000005"
    + "7603020105 000000"  # KRB-CRED and zero padding up to max_length
    + "00000000"
)
# Ends after 2038, uid above 2^31, cross-realm, full-size field.
LATE = records.Record(
    uid=0xFFFFFFFE,
    principal="nfs/host.example@EX.ORG",
    times=TicketTimes(starttime=0x7FFFFFFF, endtime=0x80000001, renew_till=0),
    data=b"\x76" * 700,
    max_length=32768,
    addressless=False,
    crossrealm=True,
)
LATE_HEX = (
    "00000081"
    + b"nfs/host.example@EX.ORG".ljust(129, b"\0").hex()
    + "fffffffe 7fffffff 80000001 00000000 00000000 00000001 00008000 000002bc"
    + "76" * 700
    + "00" * (32768 - 700)
    + "00000000"
)

REQUESTS = [
    (m.Ping(), "00000000"),
    (m.List(), "00000001"),
    (m.Add(b"\x76\x01\x00"), "00000002 00000003 760100"),
    (m.Add(b""), "00000002 00000000"),
    (m.Get(5001), "00000003 00001389"),
    (m.Get(0xFFFFFFFF), "00000003 ffffffff"),
    (m.Remove(5001), "00000004 00001389"),
    (m.Close(), "00000005"),
    (m.Dump(), "00000006"),
]
REPLIES = [
    (m.PingReply(), "00000014"),
    (m.ErrorReply(), "00000015"),
    (m.AddReply(), "00000017"),
    (m.GetReply(ALICE), "00000018" + ALICE_HEX),
    (m.GetReply(LATE), "00000018" + LATE_HEX),
    (m.RemoveReply(), "00000019"),
    (m.DumpReply(()), "0000001a 00000000"),
    (m.DumpReply((ALICE, LATE)), "0000001a 00000002" + ALICE_HEX + LATE_HEX),
]
