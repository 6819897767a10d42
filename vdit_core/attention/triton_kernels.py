"""Triton kernels that read a map tile by tile; block sizes are chosen for an H100, unmeasured.

Every kernel sees the n-th of some heads: `rows[n]` and `heads[n]` say where its q, k and mask lie,
`factor[n]` what multiplies the scores. Nothing is copied for that. `top` [n, Lq] is the largest
score of a query, `total` [n, Lq] its Σ exp(score − top) and `log_total` the log of that, so a log
weight is (score − top) − log_total, which loses less than score − lse where scores are large. A
score is −inf where the mask forbids it and outside the sequence. MASK: 0 none, 1 bool, 2 additive.
"""

# Kernels are a language of their own: their arguments and values have no Python types, and triton
# is not there on every platform.
# pyright: basic, reportMissingImports=false
# ruff: noqa: PLR0915

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise RuntimeError(
        "implementation: got 'triton', but the package triton cannot be imported here; install it "
        "(PyTorch for CUDA on Linux brings it along), or choose implementation='streaming'"
    ) from error

DIGITS = 2**8  # values of what one pass of the selection settles


@triton.jit
def _head(x, rows, heads, n, stride_b, stride_h):
    """Where the tokens of the n-th head begin."""
    return x + tl.load(rows + n) * stride_b + tl.load(heads + n) * stride_h


@triton.jit
def _tokens(base, at, valid, stride_l, stride_d, D, BD: tl.constexpr, DOT: tl.constexpr):
    """Some tokens of a head, [at, BD], zero where there are none."""
    d = tl.arange(0, BD)
    inside = valid[:, None] & (d < D)[None, :]
    where = base + at[:, None].to(tl.int64) * stride_l + d[None, :] * stride_d
    return tl.load(where, mask=inside, other=0.0).to(DOT)


@triton.jit
def _scores(
    queries, keys, at, valid, to, there, bias, stride_q, stride_k, factor, blocked,
    MASK: tl.constexpr,
):  # fmt: skip
    """Scores of some queries and keys in float32."""
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * factor
    allowed = valid[:, None] & there[None, :]
    if MASK != 0:
        where = bias + at[:, None].to(tl.int64) * stride_q + to[None, :] * stride_k
        value = tl.load(where, mask=allowed, other=0)
        if MASK == 1:
            allowed = allowed & (value != 0)
        else:
            value = value.to(tl.float32)
            allowed = allowed & (value > blocked)
            scores += tl.where(allowed, value, 0.0)
    return tl.where(allowed, scores, float("-inf"))


@triton.jit
def rows_kernel(
    q, k, mask, rows, heads, factor, blocked,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, m_b, m_h, m_q, m_k,
    v, value_rows, v_b, v_h, v_l, v_d, DV,
    top, total, entropy, allowed, out,
    LQ, LK, D,
    MASK: tl.constexpr, VALUES: tl.constexpr, TWICE: tl.constexpr, ENTROPY: tl.constexpr,
    DOT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
):  # fmt: skip
    """Each query's largest score, Σ exp(score − top), entropy, allowed keys, and M V in float32.

    Entropy needs Σ e·x with x = score − top: when the largest so far grows by d, every x falls by
    d, and the sum so far becomes exp(−d) · (sum − d · total). TWICE: multiply V by the weights in
    its dtype and by what that rounding left, which costs a second product and squares the error.
    """
    n = tl.program_id(1)
    at = tl.program_id(0) * BM + tl.arange(0, BM)
    valid = at < LQ
    scale = tl.load(factor + n)
    queries = _tokens(_head(q, rows, heads, n, q_b, q_h), at, valid, q_l, q_d, D, BD, DOT)
    keys_at = _head(k, rows, heads, n, k_b, k_h)
    bias = _head(mask, rows, heads, n, m_b, m_h)
    values_at = _head(v, value_rows, heads, n, v_b, v_h)
    largest = tl.full([BM], float("-inf"), tl.float32)
    sums = tl.zeros([BM], tl.float32)
    products = tl.zeros([BM], tl.float32)
    count = tl.zeros([BM], tl.int32)
    acc = tl.zeros([BM, BDV], tl.float32)
    for start in range(0, LK, BN):
        to = start + tl.arange(0, BN)
        there = to < LK
        keys = _tokens(keys_at, to, there, k_l, k_d, D, BD, DOT)
        s = _scores(queries, keys, at, valid, to, there, bias, m_q, m_k, scale, blocked, MASK)
        new = tl.maximum(largest, tl.max(s, 1))
        some = new > float("-inf")
        before = largest > float("-inf")
        shift = tl.where(some, new, 0.0)
        grown = tl.where(before, largest - shift, 0.0)  # −d
        decay = tl.where(before, tl.exp(grown), 0.0)
        x = s - shift[:, None]
        e = tl.exp(x)
        if ENTROPY:
            within = tl.sum(e * tl.where(e > 0.0, x, 0.0), 1)
            products = decay * (products + grown * sums) + within
        sums = sums * decay + tl.sum(e, 1)
        if MASK != 0:
            count += tl.sum((s > float("-inf")).to(tl.int32), 1)
        if VALUES:
            values = _tokens(values_at, to, there, v_l, v_d, DV, BDV, DOT)
            weights = e.to(v.dtype.element_ty)
            acc = acc * decay[:, None] + tl.dot(weights.to(DOT), values, input_precision="ieee")
            if TWICE:
                rest = (e - weights.to(tl.float32)).to(v.dtype.element_ty)
                acc += tl.dot(rest.to(DOT), values, input_precision="ieee")
        largest = new
    row = n.to(tl.int64) * LQ + at
    attends = sums > 0.0
    safe = tl.where(attends, sums, 1.0)
    tl.store(top + row, tl.where(attends, largest, 0.0), mask=valid)
    tl.store(total + row, sums, mask=valid)
    if ENTROPY:
        found = tl.log(safe) - products / safe
        tl.store(entropy + row, tl.maximum(tl.where(attends, found, 0.0), 0.0), mask=valid)
    if MASK != 0:
        tl.store(allowed + row, count, mask=valid)
    if VALUES:
        d = tl.arange(0, BDV)
        where = out + row[:, None] * DV + d[None, :]
        tl.store(where, acc / safe[:, None], mask=valid[:, None] & (d < DV)[None, :])


@triton.jit
def columns_kernel(
    q, k, mask, rows, heads, factor, blocked,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, m_b, m_h, m_q, m_k,
    top, total, bounds, tau, sums, heavy, segments,
    LQ, LK, D,
    MASK: tl.constexpr, HEAVY: tl.constexpr, DOT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What each key receives from a run of queries, [n, segment, key], and how often tau or more.

    A program has some keys and the queries bounds[segment] … bounds[segment + 1].
    """
    n = tl.program_id(2)
    segment = tl.program_id(1)
    to = tl.program_id(0) * BN + tl.arange(0, BN)
    there = to < LK
    scale = tl.load(factor + n)
    queries_at = _head(q, rows, heads, n, q_b, q_h)
    bias = _head(mask, rows, heads, n, m_b, m_h)
    keys = _tokens(_head(k, rows, heads, n, k_b, k_h), to, there, k_l, k_d, D, BD, DOT)
    acc = tl.zeros([BN], tl.float32)
    count = tl.zeros([BN], tl.int32)
    first = tl.load(bounds + segment)
    last = tl.load(bounds + segment + 1)
    for start in range(first, last, BM):
        at = start + tl.arange(0, BM)
        valid = at < last
        queries = _tokens(queries_at, at, valid, q_l, q_d, D, BD, DOT)
        s = _scores(queries, keys, at, valid, to, there, bias, m_q, m_k, scale, blocked, MASK)
        row = n.to(tl.int64) * LQ + at
        high = tl.load(top + row, mask=valid, other=0.0)
        all_of = tl.load(total + row, mask=valid, other=1.0)
        e = tl.exp(s - high[:, None])
        acc += tl.sum(e / all_of[:, None], 0)
        if HEAVY:
            count += tl.sum((e >= (tau * all_of)[:, None]).to(tl.int32), 0)
    tl.store(sums + (n.to(tl.int64) * segments + segment) * LK + to, acc, mask=there)
    if HEAVY:
        tl.atomic_add(heavy + n.to(tl.int64) * LK + to, count, mask=there)


@triton.jit
def places_kernel(
    q, k, mask, rows, heads, factor, blocked,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, m_b, m_h, m_q, m_k,
    top, total, sums, prefix, frames, places,
    LQ, LK, D,
    MASK: tl.constexpr, DOT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Mass by place of the query and place of the key, whatever the frames, [n, places, places]."""
    n = tl.program_id(2)
    of = tl.program_id(0) * BM + tl.arange(0, BM)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    valid = of < places
    there = on < places
    scale = tl.load(factor + n)
    queries_at = _head(q, rows, heads, n, q_b, q_h)
    keys_at = _head(k, rows, heads, n, k_b, k_h)
    bias = _head(mask, rows, heads, n, m_b, m_h)
    acc = tl.zeros([BM, BN], tl.float32)
    for query_frame in range(0, frames):
        at = prefix + query_frame * places + of
        row = n.to(tl.int64) * LQ + at
        high = tl.load(top + row, mask=valid, other=0.0)
        all_of = tl.load(total + row, mask=valid, other=1.0)
        queries = _tokens(queries_at, at, valid, q_l, q_d, D, BD, DOT)
        for key_frame in range(0, frames):
            to = prefix + key_frame * places + on
            keys = _tokens(keys_at, to, there, k_l, k_d, D, BD, DOT)
            s = _scores(queries, keys, at, valid, to, there, bias, m_q, m_k, scale, blocked, MASK)
            acc += tl.exp(s - high[:, None]) / all_of[:, None]
    where = (n.to(tl.int64) * places + of[:, None]) * places + on[None, :]
    tl.store(sums + where, acc, mask=valid[:, None] & there[None, :])


@triton.jit
def below_kernel(
    q, k, mask, rows, heads, factor, blocked,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, m_b, m_h, m_q, m_k,
    top, log_total, levels, l_n, l_q, counts, masses, number,
    LQ, LK, D,
    MASK: tl.constexpr, DOT: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Allowed keys of each query whose log weight lies below each level, and Σ exp(score − top)
    of these, [n, Lq, number]. Levels are found at levels + n · l_n + query · l_q.

    Sums over blocks of keys are in float64, so that a share of them can be told from the next.
    """
    n = tl.program_id(1)
    at = tl.program_id(0) * BM + tl.arange(0, BM)
    valid = at < LQ
    scale = tl.load(factor + n)
    queries = _tokens(_head(q, rows, heads, n, q_b, q_h), at, valid, q_l, q_d, D, BD, DOT)
    keys_at = _head(k, rows, heads, n, k_b, k_h)
    bias = _head(mask, rows, heads, n, m_b, m_h)
    row = n.to(tl.int64) * LQ + at
    high = tl.load(top + row, mask=valid, other=0.0)
    logs = tl.load(log_total + row, mask=valid, other=0.0)
    column = tl.arange(0, WIDTH)[None, :]
    count = tl.zeros([BM, WIDTH], tl.int32)
    mass = tl.zeros([BM, WIDTH], tl.float64)
    level_at = levels + n.to(tl.int64) * l_n + at.to(tl.int64) * l_q
    for start in range(0, LK, BN):
        to = start + tl.arange(0, BN)
        there = to < LK
        keys = _tokens(keys_at, to, there, k_l, k_d, D, BD, DOT)
        s = _scores(queries, keys, at, valid, to, there, bias, m_q, m_k, scale, blocked, MASK)
        x = s - high[:, None]
        e = tl.exp(x)
        log_weights = x - logs[:, None]
        for i in range(0, number):
            level = tl.load(level_at + i, mask=valid, other=0.0)
            below = (log_weights < level[:, None]) & (s > float("-inf"))
            some = tl.sum(below.to(tl.int32), 1)
            part = tl.sum(tl.where(below, e, 0.0), 1).to(tl.float64)
            count += tl.where(column == i, some[:, None], 0)
            mass += tl.where(column == i, part[:, None], 0.0)
    where = row[:, None] * number + column
    inside = valid[:, None] & (column < number)
    tl.store(counts + where, count, mask=inside)
    tl.store(masses + where, mass, mask=inside)


@triton.jit
def digits_kernel(
    q, k, mask, rows, heads, factor, blocked,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, m_b, m_h, m_q, m_k,
    top, log_total, prefix, counts, shift,
    LQ, LK, D,
    MASK: tl.constexpr, DOT: tl.constexpr, DIGITS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """How often each digit occurs among the allowed log weights that begin like prefix[n].

    A log weight is read as a 32-bit number in the same order; the digit is the one above `shift`,
    its beginning all above that. Counts are integers, so their order of arrival does not matter.
    """
    n = tl.program_id(1)
    at = tl.program_id(0) * BM + tl.arange(0, BM)
    valid = at < LQ
    scale = tl.load(factor + n)
    queries = _tokens(_head(q, rows, heads, n, q_b, q_h), at, valid, q_l, q_d, D, BD, DOT)
    keys_at = _head(k, rows, heads, n, k_b, k_h)
    bias = _head(mask, rows, heads, n, m_b, m_h)
    row = n.to(tl.int64) * LQ + at
    high = tl.load(top + row, mask=valid, other=0.0)
    logs = tl.load(log_total + row, mask=valid, other=0.0)
    begin = tl.load(prefix + n)
    found = tl.zeros([DIGITS], tl.int32)
    for start in range(0, LK, BN):
        to = start + tl.arange(0, BN)
        there = to < LK
        keys = _tokens(keys_at, to, there, k_l, k_d, D, BD, DOT)
        s = _scores(queries, keys, at, valid, to, there, bias, m_q, m_k, scale, blocked, MASK)
        x = (s - high[:, None]) - logs[:, None]
        x = tl.where(x == 0.0, 0.0, x)  # −0 equals 0
        bits = x.to(tl.int32, bitcast=True)
        # As unsigned numbers: all bits turned for a negative one, the sign alone for the others.
        order = (bits ^ ((bits >> 31) | -2147483648)).to(tl.int64) & 0xFFFFFFFF
        digit = order >> shift
        wanted = (s > float("-inf")) & (digit // DIGITS == begin)
        digit = (digit % DIGITS).to(tl.int32)
        found += tl.histogram(
            tl.reshape(digit, [BM * BN]), DIGITS, mask=tl.reshape(wanted, [BM * BN])
        )
    where = counts + n.to(tl.int64) * DIGITS + tl.arange(0, DIGITS)
    tl.atomic_add(where, found.to(tl.int64), mask=found > 0)


@triton.jit
def kept_kernel(
    q, k, mask, rows, heads, factor, blocked,
    q_b, q_h, q_l, q_d, k_b, k_h, k_l, k_d, m_b, m_h, m_q, m_k,
    v, value_rows, v_b, v_h, v_l, v_d, DV,
    top, total, log_total, levels, out, left, kept,
    LQ, LK, D,
    MASK: tl.constexpr, RENORMALIZE: tl.constexpr, DOT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
):  # fmt: skip
    """M V without the weights below the head's level, what is left of total, and how many keys."""
    n = tl.program_id(1)
    at = tl.program_id(0) * BM + tl.arange(0, BM)
    valid = at < LQ
    scale = tl.load(factor + n)
    level = tl.load(levels + n)
    queries = _tokens(_head(q, rows, heads, n, q_b, q_h), at, valid, q_l, q_d, D, BD, DOT)
    keys_at = _head(k, rows, heads, n, k_b, k_h)
    bias = _head(mask, rows, heads, n, m_b, m_h)
    values_at = _head(v, value_rows, heads, n, v_b, v_h)
    row = n.to(tl.int64) * LQ + at
    high = tl.load(top + row, mask=valid, other=0.0)
    logs = tl.load(log_total + row, mask=valid, other=0.0)
    sums = tl.zeros([BM], tl.float32)
    count = tl.zeros([BM], tl.int32)
    acc = tl.zeros([BM, BDV], tl.float32)
    for start in range(0, LK, BN):
        to = start + tl.arange(0, BN)
        there = to < LK
        keys = _tokens(keys_at, to, there, k_l, k_d, D, BD, DOT)
        s = _scores(queries, keys, at, valid, to, there, bias, m_q, m_k, scale, blocked, MASK)
        x = s - high[:, None]
        keep = (x - logs[:, None] >= level) & (s > float("-inf"))
        e = tl.where(keep, tl.exp(x), 0.0)
        sums += tl.sum(e, 1)
        count += tl.sum(keep.to(tl.int32), 1)
        values = _tokens(values_at, to, there, v_l, v_d, DV, BDV, DOT)
        weights = e.to(v.dtype.element_ty).to(DOT)
        acc += tl.dot(weights, values, input_precision="ieee")
    divisor = sums if RENORMALIZE else tl.load(total + row, mask=valid, other=1.0)
    divisor = tl.where(divisor > 0.0, divisor, 1.0)
    d = tl.arange(0, BDV)
    where = out + row[:, None] * DV + d[None, :]
    tl.store(where, acc / divisor[:, None], mask=valid[:, None] & (d < DV)[None, :])
    tl.store(left + row, sums, mask=valid)
    tl.store(kept + row, count, mask=valid)


# Decided when this file is first imported, by TRITON_INTERPRET.
INTERPRETED = not isinstance(rows_kernel, triton.JITFunction)
