"""The TensorBoard events of a run, read back."""

import struct

from train.runs import writers


def read(folder):
    """The events of a run's folder."""
    data = (folder / writers.EVENTS).read_bytes()
    events = []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        events.append(writers.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def without_times(folder):
    """What a run shares with one that was never killed: all but the times."""
    events = read(folder)
    for event in events:
        event.wall_time = 0
    return [event.SerializeToString() for event in events]
