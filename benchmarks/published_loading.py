"""Peak memory of `load_network`, relative to the file: `python benchmarks/published_loading.py`.

Writes a random checkpoint of each format (about 150 MB in bfloat16), loads it in a fresh process, and prints the growth of the
resident memory at its peak, with the pages of the mapped file and without them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {
    "gidd": "GiddConfig(vocab_size=16384, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4)",
    "udlm": "UDLMConfig(hidden_dim=768, n_blocks=2)",
    "llada2_moe": "LLaDA2MoeConfig(vocab_size=16384, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, "
    "num_experts=32, n_group=4, topk_group=2)",
}
WRITE = """
import sys, torch
from noiselab.networks.published import *
network = {"gidd": GiddForDiffusionLM, "udlm": UDLM, "llada2_moe": LLaDA2MoeModelLM}[sys.argv[1]](eval(sys.argv[2]))
network.to(torch.bfloat16).save_pretrained(sys.argv[3])
"""
LOAD = """
import sys, threading, time
from noiselab.networks import load_network
import noiselab.networks.published

def resident():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]

peak, done, before = resident(), False, resident()

def watch():
    global peak
    while not done:
        peak = [max(pair) for pair in zip(peak, resident())]
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
network = load_network(sys.argv[1])
done = True
thread.join()
print(*(most - start for most, start in zip(peak, before)))
"""

if __name__ == "__main__":
    for kind, config in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-c", WRITE, kind, config, folder], check=True, stderr=subprocess.DEVNULL)
            size = (Path(folder) / "model.safetensors").stat().st_size
            done = subprocess.run(
                [sys.executable, "-c", LOAD, folder],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            total, own = (int(number) / size for number in done.stdout.split())
            print(f"{kind}: file {size / 1e6:.0f} MB, peak {total:.2f} of it, {own:.2f} without the mapped file")
