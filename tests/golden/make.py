#!/usr/bin/env python3
"""Makes a golden file: a small random GraniteMoeHybrid model with the logits, loss, gradients and greedy continuation
that Hugging Face transformers gives for it in float32. `make golden GOLDEN=FILE` compares hm with it.

usage: make.py OUT.safetensors [key=value...]     keys of config.json; layer_types as letters, e.g. layer_types=mtmm"""
import json
import sys

import torch
import transformers
from safetensors.torch import save_file

config = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, layer_types="mtmm", num_local_experts=0, num_experts_per_tok=0,
    num_attention_heads=4, num_key_value_heads=2, attention_bias=False, attention_dropout=0.0,
    attention_multiplier=0.3, embedding_multiplier=1.5, residual_multiplier=0.7, logits_scaling=1.3,
    position_embedding_type="rope", rope_theta=500.0, max_position_embeddings=256, mamba_n_heads=4, mamba_d_head=16,
    mamba_n_groups=2, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=16, mamba_conv_bias=True,
    mamba_proj_bias=False, hidden_act="silu", rms_norm_eps=1e-5, initializer_range=0.08, tie_word_embeddings=False,
    use_cache=True, bos_token_id=1, eos_token_id=2, pad_token_id=3, output_router_logits=False)
for word in sys.argv[2:]:
    key, value = word.split("=")
    is_json = value in ("true", "false", "null") or value[0] in "-0123456789"
    config[key] = json.loads(value) if is_json else value
letters = config["layer_types"]
config["layer_types"] = [{"m": "mamba", "t": "attention"}[c] for c in letters]
config["num_hidden_layers"] = len(letters)
config["shared_intermediate_size"] = config["intermediate_size"]

torch.manual_seed(7)
model = transformers.GraniteMoeHybridForCausalLM(transformers.GraniteMoeHybridConfig(**config)).float().eval()
with torch.no_grad():
    for name, p in model.named_parameters():
        if p.dim() == 1:  # norms, A_log, D, dt_bias, biases: not at their dull initial values
            p.add_(0.2 * torch.randn_like(p))
        if name.endswith("dt_bias"):
            p.sub_(2.5)
ids = torch.randint(4, config["vocab_size"], (2, 41))
out = model(input_ids=ids, use_cache=False)
loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
loss.backward()
tensors = {n: p.detach().clone() for n, p in model.named_parameters()}
tensors |= {"golden.grad." + n: p.grad.clone() for n, p in model.named_parameters()}
with torch.no_grad():
    greedy = ids[:1, :20]
    for _ in range(40):
        greedy = torch.cat([greedy, model(input_ids=greedy, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
tensors |= {"golden.ids": ids.int(), "golden.logits": out.logits.detach(), "golden.loss": loss.detach().view(1),
            "golden.greedy": greedy.int()}
save_file({k: v.contiguous() for k, v in tensors.items()}, sys.argv[1], metadata={
    "format": "pt", "config": json.dumps(config),
    "made_by": f"transformers {transformers.__version__} torch {torch.__version__}, float32, CPU"})
print(sys.argv[1], "loss", loss.item())
