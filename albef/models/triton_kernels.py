"""Triton kernels of `albef.models.triton_attention`, which documents their arguments.

Scores are in base 2: ``scale`` includes log2(e). One program computes a tile of queries (or, in `backward_keys`, of
keys) of one head. ``FIRST`` treats the first token apart from the tiles: an image has one token more than patches.
"""

import triton
import triton.language as tl


@triton.jit
def kept(seed, index, threshold):
    """Return whether dropout keeps each element.

    A hash of its index (Wellons' lowbias32) is compared with the threshold.
    """
    x = index.to(tl.uint32) * 0x9E3779B9 + seed.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return (x ^ (x >> 16)) >= threshold.to(tl.uint32)


@triton.jit
def forward(
    q, k, v, out, lse, rows, mask, seed,
    q_row, q_token, q_head, kv_row, kv_token, kv_head, out_row, out_token, out_head,
    heads, queries, keys, scale, threshold, rescale,
    ROWS: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, FIRST: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    text, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    image = tl.load(rows + text) if ROWS else text
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    q_at = q + text.to(tl.int64) * q_row + head * q_head
    kv_at = image.to(tl.int64) * kv_row + head * kv_head
    query = tl.load(q_at + m[:, None] * q_token + d[None, :], mask=m[:, None] < queries, other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, D], tl.float32)
    if FIRST:
        top = tl.sum(query.to(tl.float32) * tl.load(k + kv_at + d).to(tl.float32)[None, :], 1) * scale
        total += 1.0
        weight = total
        if DROPOUT:
            index_0 = (tl.program_id(1) * queries + m) * keys
            weight = tl.where(kept(tl.load(seed), index_0, threshold), rescale, 0.0)
        mixed = weight[:, None] * tl.load(v + kv_at + d).to(tl.float32)[None, :]
    for start in range(FIRST, keys, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        if FIRST:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None])
            value = tl.load(v + kv_at + n[:, None] * kv_token + d[None, :])
            scores = tl.dot(query, key) * scale
        else:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None], mask=n[None, :] < keys, other=0.0)
            value = tl.load(v + kv_at + n[:, None] * kv_token + d[None, :], mask=n[:, None] < keys, other=0.0)
            visible = n < keys
            if MASK:
                visible = visible & (tl.load(mask + text * keys + n, mask=visible, other=0) != 0)
            scores = tl.where(visible[None, :], tl.dot(query, key) * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - higher)
        probability = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(probability, 1)
        if DROPOUT:
            index = (tl.program_id(1) * queries + m[:, None]) * keys + n[None, :]
            probability = tl.where(kept(tl.load(seed), index, threshold), probability * rescale, 0.0)
        mixed = tl.dot(probability.to(value.dtype), value, mixed * shrink[:, None])
        top = higher
    inside = m < queries
    out_at = out + text.to(tl.int64) * out_row + head * out_head + m[:, None] * out_token + d[None, :]
    tl.store(out_at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + tl.program_id(1) * queries + m, top + tl.log2(total), mask=inside)


@triton.jit
def backward_queries(
    grad, q, k, v, out, lse, delta, dq, rows, mask, seed,
    q_row, q_token, q_head, kv_row, kv_token, kv_head, out_row, out_token, out_head, dq_row, dq_token, dq_head,
    heads, queries, keys, scale, score_scale, threshold, rescale,
    ROWS: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, FIRST: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    text, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    image = tl.load(rows + text) if ROWS else text
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    inside = m < queries
    q_at = q + text.to(tl.int64) * q_row + head * q_head
    kv_at = image.to(tl.int64) * kv_row + head * kv_head
    out_at = text.to(tl.int64) * out_row + head * out_head + m[:, None] * out_token + d[None, :]
    query = tl.load(q_at + m[:, None] * q_token + d[None, :], mask=inside[:, None], other=0.0)
    gradient = tl.load(grad + out_at, mask=inside[:, None], other=0.0)
    result = tl.load(out + out_at, mask=inside[:, None], other=0.0)
    dot = tl.sum(gradient.to(tl.float32) * result.to(tl.float32), 1)
    tl.store(delta + tl.program_id(1) * queries + m, dot, mask=inside)
    norm = tl.load(lse + tl.program_id(1) * queries + m, mask=inside, other=float("inf"))
    change = tl.zeros([BLOCK_M, D], tl.float32)
    if FIRST:
        key_0 = tl.load(k + kv_at + d).to(tl.float32)[None, :]
        wanted_0 = tl.sum(gradient.to(tl.float32) * tl.load(v + kv_at + d).to(tl.float32)[None, :], 1)
        if DROPOUT:
            index_0 = (tl.program_id(1) * queries + m) * keys
            wanted_0 = tl.where(kept(tl.load(seed), index_0, threshold), wanted_0 * rescale, 0.0)
        probability_0 = tl.exp2(tl.sum(query.to(tl.float32) * key_0, 1) * scale - norm)
        change = (probability_0 * (wanted_0 - dot))[:, None] * key_0
    for start in range(FIRST, keys, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        if FIRST:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None])
            value = tl.load(v + kv_at + n[None, :] * kv_token + d[:, None])
            scores = tl.dot(query, key) * scale
        else:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None], mask=n[None, :] < keys, other=0.0)
            value = tl.load(v + kv_at + n[None, :] * kv_token + d[:, None], mask=n[None, :] < keys, other=0.0)
            visible = n < keys
            if MASK:
                visible = visible & (tl.load(mask + text * keys + n, mask=visible, other=0) != 0)
            scores = tl.where(visible[None, :], tl.dot(query, key) * scale, float("-inf"))
        probability = tl.exp2(scores - norm[:, None])
        wanted = tl.dot(gradient, value)
        if DROPOUT:
            index = (tl.program_id(1) * queries + m[:, None]) * keys + n[None, :]
            wanted = tl.where(kept(tl.load(seed), index, threshold), wanted * rescale, 0.0)
        slope = probability * (wanted - dot[:, None])
        change = tl.dot(slope.to(key.dtype), tl.trans(key), change)
    dq_at = dq + text.to(tl.int64) * dq_row + head * dq_head + m[:, None] * dq_token + d[None, :]
    tl.store(dq_at, (change * score_scale).to(dq.dtype.element_ty), mask=inside[:, None])


@triton.jit
def backward_keys(
    grad, q, k, v, lse, delta, dk, dv, order, offsets, mask, seed,
    q_row, q_token, q_head, kv_row, kv_token, kv_head, out_row, out_token, out_head, dkv_row, dkv_token, dkv_head,
    heads, queries, keys, scale, score_scale, threshold, rescale,
    ROWS: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, FIRST: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    kv_at = image.to(tl.int64) * kv_row + head * kv_head + n[:, None] * kv_token + d[None, :]
    key = tl.load(k + kv_at, mask=n[:, None] < keys, other=0.0)
    value = tl.load(v + kv_at, mask=n[:, None] < keys, other=0.0)
    change_k = tl.zeros([BLOCK_N, D], tl.float32)
    change_v = tl.zeros([BLOCK_N, D], tl.float32)
    first = tl.load(offsets + image) if ROWS else image
    last = tl.load(offsets + image + 1) if ROWS else image + 1
    for place in range(first, last):
        text = tl.load(order + place).to(tl.int32) if ROWS else place
        number = text * heads + head
        q_at = q + text.to(tl.int64) * q_row + head * q_head
        grad_at = grad + text.to(tl.int64) * out_row + head * out_head
        visible = n < keys
        if MASK:
            visible = visible & (tl.load(mask + text * keys + n, mask=visible, other=0) != 0)
        if FIRST:
            query_0 = tl.load(q_at + d).to(tl.float32)[None, :]
            gradient_0 = tl.load(grad_at + d).to(tl.float32)[None, :]
            scores_0 = tl.where(visible, tl.sum(key.to(tl.float32) * query_0, 1) * scale, float("-inf"))
            probability_0 = tl.exp2(scores_0 - tl.load(lse + number * queries))
            wanted_0 = tl.sum(value.to(tl.float32) * gradient_0, 1)
            mixed_0 = probability_0
            if DROPOUT:
                kept_0 = kept(tl.load(seed), number * queries * keys + n, threshold)
                wanted_0 = tl.where(kept_0, wanted_0 * rescale, 0.0)
                mixed_0 = tl.where(kept_0, probability_0 * rescale, 0.0)
            change_v += mixed_0[:, None] * gradient_0
            change_k += (probability_0 * (wanted_0 - tl.load(delta + number * queries)))[:, None] * query_0
        for start in range(FIRST, queries, BLOCK_M):
            m = start + tl.arange(0, BLOCK_M)
            if FIRST:
                query = tl.load(q_at + m[:, None] * q_token + d[None, :])
                gradient = tl.load(grad_at + m[:, None] * out_token + d[None, :])
                norm = tl.load(lse + number * queries + m)
                dot = tl.load(delta + number * queries + m)
            else:
                inside = m < queries
                query = tl.load(q_at + m[:, None] * q_token + d[None, :], mask=inside[:, None], other=0.0)
                gradient = tl.load(grad_at + m[:, None] * out_token + d[None, :], mask=inside[:, None], other=0.0)
                norm = tl.load(lse + number * queries + m, mask=inside, other=float("inf"))
                dot = tl.load(delta + number * queries + m, mask=inside, other=0.0)
            scores = tl.where(visible[:, None], tl.dot(key, tl.trans(query)) * scale, float("-inf"))
            probability = tl.exp2(scores - norm[None, :])
            wanted = tl.dot(value, tl.trans(gradient))
            mixed = probability
            if DROPOUT:
                index = (number * queries + m[None, :]) * keys + n[:, None]
                survives = kept(tl.load(seed), index, threshold)
                wanted = tl.where(survives, wanted * rescale, 0.0)
                mixed = tl.where(survives, probability * rescale, 0.0)
            change_v = tl.dot(mixed.to(gradient.dtype), gradient, change_v)
            slope = probability * (wanted - dot[None, :])
            change_k = tl.dot(slope.to(query.dtype), query, change_k)
    dkv_at = image.to(tl.int64) * dkv_row + head * dkv_head + n[:, None] * dkv_token + d[None, :]
    tl.store(dk + dkv_at, (change_k * score_scale).to(dk.dtype.element_ty), mask=n[:, None] < keys)
    tl.store(dv + dkv_at, change_v.to(dv.dtype.element_ty), mask=n[:, None] < keys)
