"""What the benchmarks say about the machine, and how they measure memory."""
import os
import platform
import re
import threading
from importlib.metadata import version
from pathlib import Path

import cpuinfo
import torch

PACKAGES = 'torch', 'numpy', 'av', 'scipy', 'librosa', 'cvxpy'


def describe() -> dict:
    """Processor, cores, memory, GPU and versions, without the machine's name."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        'processor': cpuinfo.get_cpu_info().get('brand_raw', platform.processor()),
        'cores': os.cpu_count(),
        'memory_gib': round(memory),
        'gpu': gpu,
        'system': platform.system(),
        'python': platform.python_version(),
        'threads': torch.get_num_threads(),
        **{name: version(name) for name in PACKAGES},
    }


def megabytes(name: str) -> float:
    """A figure of /proc/self/status: VmHWM is the most that the process ever had in memory, RssAnon what it has of its
    own, without pages of mapped files.
    """
    return int(re.search(name + r':\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1024


class Peak:
    """The most memory while a block runs: `whole` with the pages of mapped files, `own` without them, which is
    looked at twenty times a second.
    """
    def __enter__(self):
        # VmHWM starts anew; ru_maxrss would be inherited from whoever started the process
        Path('/proc/self/clear_refs').write_text('5')
        self.before, self.own, self.done = megabytes('RssAnon'), 0., threading.Event()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return self

    def watch(self):
        while not self.done.wait(.05):
            self.own = max(self.own, megabytes('RssAnon'))

    def __exit__(self, *error):
        self.done.set()
        self.watcher.join()
        self.own, self.whole = max(self.own, megabytes('RssAnon')), megabytes('VmHWM')
