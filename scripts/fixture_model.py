"""The Qwen3.5 text model in plain torch, made to train and to sample a tiny one quickly on a CPU.

The mathematics is transformers' (modeling_qwen3_5.py of 5.17); the recurrence is written in chunks,
and a prefix that all sequences share is computed once. `train_fixture.py check` compares the logits
with transformers' own model.
"""

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = dict(
    vocab_size=1088, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
    rms_norm_eps=1e-6, rope_theta=10_000_000, partial_rotary_factor=0.25,
)
CHUNK = 32


def rms(x, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return rms(x) * (1 + self.weight)


class PlainNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x, gate):
        return rms(x) * self.weight * F.silu(gate)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, f = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(h, f, bias=False)
        self.up_proj = nn.Linear(h, f, bias=False)
        self.down_proj = nn.Linear(f, h, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def unit(x):
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


def delta_rule(q, k, v, g, beta, state):
    """Gated delta rule in chunks. q, k [B,H,T,K]; v [B,H,T,V]; g, beta [B,H,T]; state [B,H,K,V]."""
    length = q.shape[2]
    pad = -length % min(CHUNK, length)
    size = min(CHUNK, length)
    if pad:
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
        g, beta = F.pad(g, (0, pad)), F.pad(beta, (0, pad))
    b, h, total, _ = q.shape
    q, k, v = (x.view(b, h, total // size, size, -1) for x in (q, k, v))
    g, beta = (x.view(b, h, total // size, size) for x in (g, beta))
    cum = g.cumsum(-1)
    lower = torch.ones(size, size, dtype=torch.bool).tril()
    decay = (cum[..., :, None] - cum[..., None, :]).masked_fill(~lower, -torch.inf).exp()
    kb = k * beta[..., None]
    inner = ((kb @ k.mT) * decay).tril(-1)
    right = torch.cat([v * beta[..., None], kb * cum.exp()[..., None]], -1)
    solved = torch.linalg.solve_triangular(
        inner + torch.eye(size), right, upper=False, unitriangular=True)
    u, w = solved.split([v.shape[-1], k.shape[-1]], -1)
    scores = (q @ k.mT) * decay
    q_in = q * cum.exp()[..., None]
    k_out = k * (cum[..., -1:] - cum).exp()[..., None]
    last = cum[..., -1].exp()
    outs = []
    for i in range(total // size):
        fresh = u[:, :, i] - w[:, :, i] @ state
        outs.append(q_in[:, :, i] @ state + scores[:, :, i] @ fresh)
        state = state * last[:, :, i, None, None] + k_out[:, :, i].mT @ fresh
    return torch.cat(outs, 2)[:, :, :length], state


class GatedDeltaNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.hk, self.hv = c["linear_num_key_heads"], c["linear_num_value_heads"]
        self.dk, self.dv = c["linear_key_head_dim"], c["linear_value_head_dim"]
        h, kd, vd = c["hidden_size"], self.hk * self.dk, self.hv * self.dv
        self.kd, self.vd = kd, vd
        self.in_proj_qkv = nn.Linear(h, 2 * kd + vd, bias=False)
        self.in_proj_z = nn.Linear(h, vd, bias=False)
        self.in_proj_b = nn.Linear(h, self.hv, bias=False)
        self.in_proj_a = nn.Linear(h, self.hv, bias=False)
        self.conv1d = nn.Conv1d(
            2 * kd + vd, 2 * kd + vd, c["linear_conv_kernel_dim"], groups=2 * kd + vd, bias=False)
        self.A_log = nn.Parameter(torch.zeros(self.hv))
        self.dt_bias = nn.Parameter(torch.zeros(self.hv))
        self.norm = PlainNorm(self.dv)
        self.out_proj = nn.Linear(vd, h, bias=False)

    def empty(self, batch):
        return {"conv": torch.zeros(batch, 3, 2 * self.kd + self.vd),
                "state": torch.zeros(batch, self.hv, self.dk, self.dv)}

    def forward(self, x, cache, valid, _positions):
        b, t, _ = x.shape
        mixed = torch.cat([cache["conv"].expand(b, -1, -1), self.in_proj_qkv(x)], 1)
        # The tail that the next call needs: the last three inputs that count.
        ends = valid.sum(1) if valid is not None else torch.full((b,), t)
        tail = mixed.gather(1, (ends[:, None] + torch.arange(3))[..., None].expand(
            -1, -1, mixed.shape[2]))
        taps = self.conv1d.weight[:, 0]
        mixed = F.silu(sum(mixed[:, j:j + t] * taps[:, j] for j in range(4)))
        q, k, v = mixed.split([self.kd, self.kd, self.vd], -1)
        share = self.hv // self.hk
        q, k = (unit(y.view(b, t, self.hk, self.dk)).repeat_interleave(share, 2).transpose(1, 2)
                for y in (q, k))
        v = v.view(b, t, self.hv, self.dv).transpose(1, 2)
        beta = torch.sigmoid(self.in_proj_b(x)).transpose(1, 2)
        g = (-self.A_log.exp() * F.softplus(self.in_proj_a(x) + self.dt_bias)).transpose(1, 2)
        if valid is not None:
            beta, g = beta * valid[:, None], g * valid[:, None]
        out, state = delta_rule(
            q * self.dk ** -0.5, k, v, g, beta, cache["state"].expand(b, -1, -1, -1))
        out = self.norm(out.transpose(1, 2), self.in_proj_z(x).view(b, t, self.hv, self.dv))
        return self.out_proj(out.reshape(b, t, self.vd)), {"conv": tail, "state": state}


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.nh, self.kv, self.d = (
            c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])
        h = c["hidden_size"]
        self.q_proj = nn.Linear(h, 2 * self.nh * self.d, bias=False)
        self.k_proj = nn.Linear(h, self.kv * self.d, bias=False)
        self.v_proj = nn.Linear(h, self.kv * self.d, bias=False)
        self.o_proj = nn.Linear(self.nh * self.d, h, bias=False)
        self.q_norm, self.k_norm = Norm(self.d), Norm(self.d)
        rotary = int(self.d * c["partial_rotary_factor"])
        self.inv_freq = c["rope_theta"] ** -(torch.arange(0, rotary, 2).float() / rotary)

    def empty(self, batch):
        shape = (batch, self.kv, 0, self.d)
        return {"k": torch.zeros(shape), "v": torch.zeros(shape),
                "valid": torch.zeros(batch, 0, dtype=torch.bool)}

    def rotate(self, x, positions):
        angle = positions[:, None, :, None] * self.inv_freq
        cos, sin = angle.cos(), angle.sin()
        half = len(self.inv_freq)
        a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def decode(self, q, k, v, cache, valid):
        """One token a row, written into the next free column of buffers that `reserve` made."""
        at = cache["next"]
        cache["k"][:, :, at], cache["v"][:, :, at] = k[:, :, 0], v[:, :, 0]
        cache["valid"][:, at] = valid[:, 0]
        cache["next"] += 1
        seen = cache["valid"].clone()
        seen[:, at] = True
        grouped = q.reshape(len(q), self.kv, self.nh // self.kv, self.d)
        out = F.scaled_dot_product_attention(
            grouped, cache["k"], cache["v"], attn_mask=seen[:, None, None])
        return out.reshape(len(q), self.nh, 1, self.d), cache

    def forward(self, x, cache, valid, positions):
        b, t, _ = x.shape
        q, gate = self.q_proj(x).view(b, t, self.nh, 2 * self.d).chunk(2, -1)
        k = self.k_proj(x).view(b, t, self.kv, self.d)
        v = self.v_proj(x).view(b, t, self.kv, self.d).transpose(1, 2)
        q = self.rotate(self.q_norm(q).transpose(1, 2), positions)
        k = self.rotate(self.k_norm(k).transpose(1, 2), positions)
        if "next" in cache:
            out, cache = self.decode(q, k, v, cache, valid)
            out = out.transpose(1, 2) * torch.sigmoid(gate)
            return self.o_proj(out.reshape(b, t, -1)), cache
        k = torch.cat([cache["k"].expand(b, -1, -1, -1), k], 2)
        v = torch.cat([cache["v"].expand(b, -1, -1, -1), v], 2)
        new = valid if valid is not None else torch.ones(b, t, dtype=torch.bool)
        seen = torch.cat([cache["valid"].expand(b, -1), new], 1)
        past = seen.shape[1] - t
        mask = torch.ones(t, past + t, dtype=torch.bool).tril(past) & seen[:, None]
        # A row without any key would be NaN; padding rows see themselves, and nobody reads them.
        mask = mask | torch.eye(t, past + t, dtype=torch.bool).roll(past, 1)
        out = F.scaled_dot_product_attention(
            q, k.repeat_interleave(self.nh // self.kv, 1),
            v.repeat_interleave(self.nh // self.kv, 1), attn_mask=mask[:, None])
        out = out.transpose(1, 2) * torch.sigmoid(gate)
        return self.o_proj(out.reshape(b, t, -1)), {"k": k, "v": v, "valid": seen}


class Layer(nn.Module):
    def __init__(self, c, full):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"])
        if full:
            self.self_attn = Attention(c)
        else:
            self.linear_attn = GatedDeltaNet(c)
        self.post_attention_layernorm = Norm(c["hidden_size"])
        self.mlp = Mlp(c)

    @property
    def mixer(self):
        return self.self_attn if hasattr(self, "self_attn") else self.linear_attn

    def forward(self, h, cache, valid, positions):
        out, cache = self.mixer(self.input_layernorm(h), cache, valid, positions)
        h = h + out
        return h + self.mlp(self.post_attention_layernorm(h)), cache


class TinyQwen(nn.Module):
    """Tied Qwen3.5 text model; every fourth layer is full attention."""

    def __init__(self, c=None):
        super().__init__()
        c = c or CONFIG
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(
            Layer(c, (i + 1) % 4 == 0) for i in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"])

    def empty(self, batch=1):
        return {"at": torch.zeros(batch, dtype=torch.long),
                "layers": [layer.mixer.empty(batch) for layer in self.layers]}

    def forward(self, ids, cache, valid=None):
        """Hidden states [B,T,H] of `ids` after `cache`; `valid` marks what is not right padding."""
        b, t = ids.shape
        at = cache["at"].expand(b)
        positions = at[:, None] + torch.arange(t)
        h, layers = self.embed_tokens(ids), []
        for layer, part in zip(self.layers, cache["layers"]):
            h, part = layer(h, part, valid, positions)
            layers.append(part)
        used = valid.sum(1) if valid is not None else torch.tensor(t)
        return self.norm(h), {"at": at + used, "layers": layers}

    def reserve(self, cache, columns):
        """Makes room for `columns` single tokens, so that a step need not copy all keys."""
        for part in cache["layers"]:
            if "valid" in part:
                part["next"] = part["valid"].shape[1]
                part["k"] = F.pad(part["k"], (0, 0, 0, columns))
                part["v"] = F.pad(part["v"], (0, 0, 0, columns))
                part["valid"] = F.pad(part["valid"], (0, columns))
        return cache

    def release(self, cache):
        """Takes back the room that was not used."""
        for part in cache["layers"]:
            if "next" in part:
                end = part.pop("next")
                part["k"], part["v"] = part["k"][:, :, :end], part["v"][:, :, :end]
                part["valid"] = part["valid"][:, :end]
        return cache

    def logits(self, hidden):
        return hidden @ self.embed_tokens.weight.T


def initialise(model, seed):
    """Starts near a copying machine, because copying names is what takes a tiny model longest.

    The residual stream begins as the token itself (layers write little), and attention's value and
    output maps begin as each other's transpose: a head that finds a token also says it. Decays are
    spread so that some heads of the linear layers keep what they read for long.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(p, deviation):
        p.copy_(deviation * torch.randn(p.shape, generator=g))

    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if name.endswith("A_log"):
                p.copy_(torch.log(torch.linspace(0.5, 4.0, p.numel())))
            elif name.endswith("dt_bias"):
                dt = torch.logspace(-3, -1, p.numel())
                p.copy_(dt + torch.log(-torch.expm1(-dt)))
            elif name.endswith("conv1d.weight"):
                normal(p, 0.3)
            elif name == "embed_tokens.weight":
                normal(p, 0.1)
            elif p.ndim == 2:
                writes = name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight"))
                normal(p, (0.1 if writes else 1.0) * p.shape[1] ** -0.5)
        for layer in model.layers[3::4]:
            at = layer.self_attn
            values = torch.linalg.qr(torch.randn(at.v_proj.weight.shape, generator=g))[0]
            at.v_proj.weight.copy_(values)
            back = values.view(at.kv, at.d, -1).repeat_interleave(at.nh // at.kv, 0)
            at.o_proj.weight.copy_(0.4 * back.reshape(at.nh * at.d, -1).T)
    return model
