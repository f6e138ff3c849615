"""Envelopes whose lengths and checksums are right, around content that is not."""

import io
import zipfile


def torch_zip(pickled, storages=None, root="archive", method=zipfile.ZIP_STORED, more=None):
    """What ``torch.save`` writes, around this pickle; one storage of sixteen bytes unless others are given."""
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w", method) as file:
        file.writestr(f"{root}/data.pkl", pickled)
        for key, content in ({"0": bytes(16)} if storages is None else storages).items():
            file.writestr(f"{root}/data/{key}", content)
        for name, content in (more or {}).items():
            file.writestr(name, content)
    return room.getvalue()


def table(content, checksum):
    """A LevelDB table with this one block of entries; ``checksum`` is that of its format."""
    file = bytearray()

    def block(data):
        start = len(file)
        file.extend(data + b"\0")
        file.extend(checksum(data + b"\0").to_bytes(4, "little"))
        return varint(start) + varint(len(data))

    restarts = (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    place = block(content + restarts)
    index = block(varint(0) + varint(1) + varint(len(place)) + b"\xff" + place + restarts)
    footer = block(restarts) + index
    return bytes(file + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little"))


def varint(number):
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
