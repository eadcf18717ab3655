#!/usr/bin/env python3
"""Trains the model of an hm run again in PyTorch, on the same rows, and compares the losses step by step.

usage: loss_curve.py INIT.safetensors TRAIN.csv SHARD.tok.zst... [name=value...]

INIT is what both start from (hm-train --init-from INIT), TRAIN.csv hm's log with a row a step (--log-every 1). The
run's options are given by name: batch, accum, seed, lr, beta1, beta2, eps, wd, clip, and the rate of each step is read
from the log, so that the schedule is not in question. See tests/peers/run.sh."""
import csv
import subprocess
import sys

import numpy as np
import torch

import peer

words = [a for a in sys.argv[1:] if "=" not in a]
o = dict(batch=8, accum=1, seed=1, beta1=0.9, beta2=0.95, eps=1e-8, wd=0.1, clip=1.0)
o.update({k: float(v) for k, v in (a.split("=") for a in sys.argv[1:] if "=" in a)})
init, log, shards = words[0], words[1], words[2:]

torch.manual_seed(0)
config, tensors = peer.load(init)
T = config["max_position_embeddings"]
raw = subprocess.run(["zstd", "-dc", *shards], stdout=subprocess.PIPE, check=True).stdout
tokens = np.frombuffer(raw, np.uint16)
n_rows = -(-len(tokens) // T)
with open(log) as f:
    steps = [r for r in csv.DictReader(line for line in f if not line.startswith("#")) if r["event"] == "train"]

for t in tensors.values():
    t.requires_grad_()
decayed = [t for n, t in tensors.items() if t.dim() == 2 and "embed_tokens" not in n and "lm_head" not in n]
plain = [t for t in tensors.values() if not any(t is d for d in decayed)]
adamw = torch.optim.AdamW([dict(params=decayed, weight_decay=o["wd"]), dict(params=plain, weight_decay=0.0)],
                          lr=1.0, betas=(o["beta1"], o["beta2"]), eps=o["eps"])

RNG_SHUFFLE, worst = 4, 0.0
for k, r in enumerate(steps):
    rows = []
    for i in range(int(o["batch"] * o["accum"])):
        g = k * int(o["batch"] * o["accum"]) + i
        stream = RNG_SHUFFLE << 56 | (g // n_rows)
        rows.append(peer.row(tokens, peer.permute(int(o["seed"]), stream, g % n_rows, n_rows), T))
    ids, target, seg, pos = (torch.tensor(np.stack(a)) for a in zip(*rows))
    n = int((target >= 0).sum())
    adamw.zero_grad()
    total = 0.0
    for m in range(int(o["accum"])):
        part = slice(m * int(o["batch"]), (m + 1) * int(o["batch"]))
        loss = peer.loss_sum(config, tensors, ids[part], target[part], seg[part], pos[part]) / n
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(list(tensors.values()), o["clip"])
    for group in adamw.param_groups:
        group["lr"] = float(r["lr"])
    adamw.step()
    gap = abs(total - float(r["loss_nats"]))
    worst = max(worst, gap)
    if k % 10 == 0 or k == len(steps) - 1:
        print(f"step {k + 1}: peer {total:.6f}, hm {float(r['loss_nats']):.6f}, apart {gap:.2e}", flush=True)
print(f"{len(steps)} steps, losses at most {worst:.2e} apart")
sys.exit(worst > 1e-3)
