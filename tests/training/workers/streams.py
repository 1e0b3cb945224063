"""CUDA's streams on a CPU: DeepSpeed takes its GPU branches, waits of the host are counted, and races are found.

Every operation runs at once. A vector clock per stream records what a GPU would be free to reorder: two accesses to
the same bytes, one of them a write, are a race unless an event, a wait or a synchronisation orders them.
"""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from deepspeed.accelerator import get_accelerator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE: "Device"


def merge(clock, other):
    for stream, time in other.items():
        clock[stream] = max(clock.get(stream, 0), time)


class Stream:
    def __init__(self, *_, **__):
        self.clock = {}
        DEVICE.streams.append(self)

    def wait_stream(self, other):
        merge(self.clock, other.clock)

    def wait_event(self, event):
        merge(self.clock, event.clock)

    def synchronize(self):
        DEVICE.waits["stream"] += 1
        merge(DEVICE.host, self.clock)


class Event:
    def __init__(self, *_, **__):
        self.clock = {}

    def record(self, stream=None):
        self.clock = dict((stream or DEVICE.current).clock)

    def query(self):
        return False

    def synchronize(self):
        DEVICE.waits["event"] += 1
        merge(DEVICE.host, self.clock)


@dataclass(eq=False)
class Accesses:
    """Accesses to a storage: (stream, is a write, first byte, last byte) -> time of the last one."""

    storage: StorageWeakRef
    allocated_on: Stream
    times: dict = field(default_factory=dict)
    recorded: set = field(default_factory=set)


class Device:
    """The streams of an emulated device, and what the host knows to be finished."""

    def __init__(self):
        self.streams, self.host, self.waits, self.races = [], {}, Counter(), []
        self.current = None
        self.storages, self.shared, self.freed = {}, [], []

    def synchronize(self, *_):
        self.waits["device"] += 1
        for stream in self.streams:
            merge(self.host, stream.clock)

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before

    def launch(self, name, reads, writes):
        """An operation on the current stream."""
        stream = self.current
        merge(stream.clock, self.host)
        self._find_freed()
        stream.clock[stream] = stream.clock.get(stream, 0) + 1
        for tensor, is_write in [(tensor, False) for tensor in reads] + [(tensor, True) for tensor in writes]:
            self._access(name, tensor, is_write)

    def record_stream(self, tensor, stream):
        self._accesses(tensor).recorded.add(stream)

    def _accesses(self, tensor):
        storage = StorageWeakRef(tensor.untyped_storage())
        known = self.storages.get(storage.cdata)
        if known is None or known.storage.expired():
            known = self.storages[storage.cdata] = Accesses(storage, self.current)
            self._check_reuse()
        return known

    def _access(self, name, tensor, is_write):
        if tensor.numel() == 0:
            return
        accesses, stream = self._accesses(tensor), self.current
        first = tensor.storage_offset() * tensor.element_size()
        extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        last = first + extent * tensor.element_size()
        if stream is not accesses.allocated_on and accesses not in self.shared:
            self.shared.append(accesses)
        others = [access for access in accesses.times.items() if access[0][0] is not stream]
        for (other, wrote, start, end), time in others:
            ordered = stream.clock.get(other, 0) >= time
            if not ordered and (is_write or wrote) and start < last and first < end:
                self.races.append(f"{name}: {'write' if is_write else 'read'} after {'write' if wrote else 'read'}")
        accesses.times[stream, is_write, first, last] = stream.clock[stream]

    def _check_reuse(self):
        """The allocator gives freed memory to the stream that allocated it, which must not overtake other users."""
        for owner, stream, time in self.freed:
            if owner is self.current and owner.clock.get(stream, 0) < time:
                self.races.append("memory reused while another stream uses it")
        self.freed = [entry for entry in self.freed if entry[0] is not self.current]

    def _find_freed(self):
        for known in [known for known in self.shared if known.storage.expired()]:
            self.shared.remove(known)
            users = [(stream, time) for (stream, *_), time in known.times.items() if stream not in known.recorded]
            self.freed += [(known.allocated_on, *user) for user in users]


class Launches(TorchDispatchMode):
    """Passes every operation to the emulated device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function.is_view:
            return result
        collective = function.namespace == "c10d"
        reads, writes = [], []
        for position, argument in enumerate(function._schema.arguments):
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            is_write = collective or (argument.alias_info is not None and argument.alias_info.is_write)
            (writes if is_write else reads).extend(x for x in tree_leaves(value) if isinstance(x, torch.Tensor))
        inputs = {x.untyped_storage()._cdata for x in reads + writes}
        outputs = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        writes += [x for x in outputs if x.untyped_storage()._cdata not in inputs]
        DEVICE.launch(str(function), reads, writes)
        return result


def emulate():
    """Replace DeepSpeed's CPU accelerator by one with streams, for the rest of the process."""
    global DEVICE
    DEVICE = Device()
    main = DEVICE.current = Stream()
    accelerator = type(get_accelerator())
    for name in ("is_synchronized_device", "resolves_data_dependency", "use_host_timers"):
        setattr(accelerator, name, lambda self: False)
    accelerator.Stream = property(lambda self: Stream)
    accelerator.Event = property(lambda self: Event)
    accelerator.stream = lambda self, stream: DEVICE.stream(stream)
    accelerator.current_stream = lambda self, index=None: DEVICE.current
    accelerator.default_stream = lambda self, index=None: main
    accelerator.synchronize = lambda self, index=None: DEVICE.synchronize()
    torch.Tensor.record_stream = lambda self, stream: DEVICE.record_stream(self, stream)
    return DEVICE
