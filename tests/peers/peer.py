"""The same model in PyTorch, written from the equations: what tests/peers compares hm with.

Reads hm's checkpoints (safetensors, float32 or bfloat16) without any package but torch and numpy. The mixers are the
quadratic forms, T x T a head: slow, small, and sharing no code or idea with hm's chunks and tiles."""
import json
import math
import struct

import numpy as np
import torch
import torch.nn.functional as F


def load(path):
    """(config dict, name -> float32 tensor) of a safetensors file; other types are left out."""
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(n))
        data = f.read()
    meta = head.pop("__metadata__")
    tensors = {}
    for name, t in head.items():
        raw = data[t["data_offsets"][0]:t["data_offsets"][1]]
        if t["dtype"] == "F32":
            a = np.frombuffer(raw, np.float32)
        elif t["dtype"] == "BF16":
            a = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            continue
        tensors[name] = torch.tensor(a.copy()).view(t["shape"])
    return json.loads(meta["config"]), tensors


def rms(x, w, eps):
    return w * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def mamba(c, p, x, same):
    """same[b,t,u]: u is not later than t and of its document."""
    B, T, _ = x.shape
    H, P, N, G, K = (c[k] for k in ("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"))
    E = H * P
    z, xbc, dt = torch.split(F.linear(x, p["mamba.in_proj.weight"]), [E, E + 2 * G * N, H], -1)
    w, conv = p["mamba.conv1d.weight"][:, 0], p["mamba.conv1d.bias"]
    for j in range(K):
        back = K - 1 - j
        live = F.pad(torch.diagonal(same, -back, 1, 2), (back, 0))  # B T: the tap lies in the same document
        conv = conv + w[:, j] * F.pad(xbc, (0, 0, back, 0))[:, :T] * live[..., None]
    xs, bm, cm = torch.split(F.silu(conv), [E, G * N, G * N], -1)
    xs = xs.view(B, T, H, P)
    bm = bm.view(B, T, G, N).repeat_interleave(H // G, 2)
    cm = cm.view(B, T, G, N).repeat_interleave(H // G, 2)
    delta = F.softplus(dt + p["mamba.dt_bias"])
    s = torch.cumsum(delta * -torch.exp(p["mamba.A_log"]), 1).permute(0, 2, 1)  # B H T
    gap = (s[..., :, None] - s[..., None, :]).masked_fill(~same[:, None], -math.inf)
    mix = torch.einsum("bthn,buhn->bhtu", cm, bm) * torch.exp(gap)
    y = torch.einsum("bhtu,buh,buhp->bthp", mix, delta, xs) + p["mamba.D"][:, None] * xs
    v = y.reshape(B, T, E) * F.silu(z)
    return F.linear(rms(v, p["mamba.norm.weight"], c["rms_norm_eps"]), p["mamba.out_proj.weight"])


def attention(c, p, x, same, pos):
    B, T, D = x.shape
    H, G = c["num_attention_heads"], c["num_key_value_heads"]
    q = F.linear(x, p["self_attn.q_proj.weight"]).view(B, T, H, -1)
    k = F.linear(x, p["self_attn.k_proj.weight"]).view(B, T, G, -1)
    v = F.linear(x, p["self_attn.v_proj.weight"]).view(B, T, G, -1)
    if c.get("position_embedding_type") == "rope":
        half = q.shape[-1] // 2
        angle = pos[..., None, None] * c["rope_theta"] ** (-torch.arange(half) / half)
        turn = lambda a: torch.cat([a[..., :half] * angle.cos() - a[..., half:] * angle.sin(),
                                    a[..., half:] * angle.cos() + a[..., :half] * angle.sin()], -1)
        q, k = turn(q), turn(k)
    k, v = k.repeat_interleave(H // G, 2), v.repeat_interleave(H // G, 2)
    scores = torch.einsum("bthp,buhp->bhtu", q, k) * c["attention_multiplier"]
    w = torch.softmax(scores.masked_fill(~same[:, None], -math.inf), -1)
    return F.linear(torch.einsum("bhtu,buhp->bthp", w, v).reshape(B, T, -1), p["self_attn.o_proj.weight"])


def loss_sum(c, tensors, ids, target, seg, pos):
    """Sum over targets >= 0 of -log p, for (B,T) integer tensors."""
    T = ids.shape[1]
    same = (seg[:, :, None] == seg[:, None, :]) & torch.ones(T, T, dtype=torch.bool).tril()
    h = F.embedding(ids, tensors["model.embed_tokens.weight"]) * c["embedding_multiplier"]
    for i, kind in enumerate(c["layer_types"]):
        at = f"model.layers.{i}."
        p = {k[len(at):]: v for k, v in tensors.items() if k.startswith(at)}
        x = rms(h, p["input_layernorm.weight"], c["rms_norm_eps"])
        mix = mamba(c, p, x, same) if kind in ("mamba", "linear_attention") else attention(c, p, x, same, pos)
        h = h + c["residual_multiplier"] * mix
        gate, up = F.linear(rms(h, p["post_attention_layernorm.weight"], c["rms_norm_eps"]),
                            p["shared_mlp.input_linear.weight"]).chunk(2, -1)
        h = h + c["residual_multiplier"] * F.linear(F.silu(gate) * up, p["shared_mlp.output_linear.weight"])
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    logits = F.linear(rms(h, tensors["model.norm.weight"], c["rms_norm_eps"]), head) / c["logits_scaling"]
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="sum")


# --- hm's rows: hm(7), "tokens, documents, rows" ---

def philox(key, stream, index):
    """Ten rounds of Philox4x32 (Salmon et al. 2011)."""
    m = 0xFFFFFFFF
    c, k = [index & m, index >> 32, stream & m, stream >> 32], [key & m, key >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & m, (a >> 32) ^ c[3] ^ k[1], a & m]
        k = [(k[0] + 0x9E3779B9) & m, (k[1] + 0xBB67AE85) & m]
    return c


def permute(key, stream, i, n):
    """The keyed bijection of 0..n-1 that shuffles rows: a Feistel network, walked until it lands inside."""
    half = 1
    while half < 32 and 1 << 2 * half < n:
        half += 1
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for r in range(4):
            f = philox(key, stream, right << 2 | r)
            left, right = right, left ^ ((f[1] << 32 | f[0]) & mask)
        i = left << half | right
        if i < n:
            return i


def row(tokens, r, T, bos=1, eos=2, pad=3):
    """Inputs, targets, segments and positions of row r of the concatenation with </s> in front."""
    span = tokens[max(r * T - 1, 0):r * T + T].astype(np.int64)
    s = np.concatenate([[eos], span]) if r == 0 else span
    ids, target = s[:-1].copy(), s[1:]
    n = len(target)
    starts = ids == eos
    ids[starts] = bos
    seg = np.cumsum(starts)
    pos = np.zeros(n, np.int64)
    for t in range(1, n):
        pos[t] = 0 if starts[t] else pos[t - 1] + 1
    fill = lambda a, v: np.concatenate([a, np.full(T - n, v)])
    return fill(ids, pad), fill(target, -1), fill(seg, seg[-1]), fill(pos, 0)
