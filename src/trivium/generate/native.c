/* A pass of a Llama-like transformer over a few tokens, and its matrix products, for processors: what a step of decoding is spent on.

   Weights are float32, bfloat16 or int8 as they lie in a checkpoint, (outputs, inputs) row by row; inputs, sums and everything else are
   float32. Where a matrix of int8 rounds its inputs, too, each token's are steps of a scale of its own, and products and sums are whole
   numbers. Each output is one sum in one order, whatever else is computed beside it: a token's numbers do not depend on its company.
   Keys and values lie in blocks (`generate/paged.py`): (blocks, BLOCK, kv heads, width) float32 for each layer.

   `generate/native.py` compiles this file where it runs and describes the structures once more. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#if defined(__AVX512F__)
#define LANES 16
#define WIDE 4 /* outputs of a tile with several tokens: as many sums as there are registers for */
#else
#define LANES 8
#define WIDE 2
#endif
#define TALL 4  /* tokens of a tile */
#define RUN 32  /* outputs that a thread takes at a time */
#define BLOCK 16
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
enum { FLOAT32, BFLOAT16, INT8, ROUNDED };
enum { SILU, GELU, GELU_TANH };

typedef struct {
    const void *weight;  /* (outputs, inputs); NULL: there is none */
    const float *scale;  /* (outputs,) of int8 */
    const float *bias;   /* (outputs,) or NULL */
    const int32_t *sums; /* (outputs,) of the weights, where inputs are rounded to int8; else NULL */
    int32_t kind, outputs, inputs;
} Matrix;

/* What a matrix is multiplied with: (tokens, inputs), and the same rounded, x about step (number - 128). */
typedef struct {
    const float *x;
    const uint8_t *rounded; /* (tokens, inputs) */
    const float *steps;     /* (tokens,) */
} Rows;

typedef struct {
    const float *norm, *inner_norm;     /* (width,) */
    const float *query_norm, *key_norm; /* (head width,) or NULL */
    Matrix query, key, value, out, gate, up, down;
    float *keys, *values;
    int32_t turned; /* whether positions turn its queries and keys */
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm;
    int32_t count, width, heads, kv_heads, head_width, rotary, hidden, activation;
    float epsilon, attention_scale, residual_scale, norm_scale;
} Model;

typedef struct {
    const int64_t *places;        /* (tokens,): where each stands in its text; its key goes there */
    const int64_t *table;         /* (texts, columns): the blocks of each */
    const float *cosines, *sines; /* (tokens, rotary) */
    int32_t tokens, each, columns; /* `each`: tokens of a text, which stand together */
} Pass;

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec at(const float *x) { return *(const vec *)x; }

INLINE vec load(int kind, const void *w, long i) {
    if (kind == FLOAT32) return at((const float *)w + i);
#if defined(__AVX512F__)
    if (kind == BFLOAT16)
        return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)((const uint16_t *)w + i))), 16);
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)((const int8_t *)w + i))));
#elif defined(__AVX2__)
    if (kind == BFLOAT16)
        return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)((const uint16_t *)w + i))), 16);
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)((const int8_t *)w + i))));
#else
    vec v;
    for (int l = 0; l < LANES; l++) {
        if (kind == BFLOAT16) ((ints *)&v)[0][l] = (int32_t)((uint32_t)((const uint16_t *)w)[i + l] << 16);
        else v[l] = ((const int8_t *)w)[i + l];
    }
    return v;
#endif
}

INLINE float one(int kind, const void *w, long i) {
    if (kind == FLOAT32) return ((const float *)w)[i];
    if (kind == INT8) return ((const int8_t *)w)[i];
    union { uint32_t bits; float value; } wide = {(uint32_t)((const uint16_t *)w)[i] << 16};
    return wide.value;
}

INLINE float sum(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s[LANES / 2];
    for (int l = 0; l < LANES / 2; l++) s[l] = v[l] + v[l + LANES / 2];
    return (s[0] + s[2]) + (s[1] + s[3]);
#endif
}

INLINE int32_t total(ints v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t s = 0;
    for (int l = 0; l < LANES; l++) s += v[l];
    return s;
#endif
}

/* exp(x), to a few units in the last place; what is no number stays none. */
INLINE vec power(vec x) {
    ints low = x < all(-87.0f), high = x > all(88.0f);
    x = (vec)(((ints)x & ~(low | high)) | ((ints)all(-87.0f) & low) | ((ints)all(88.0f) & high));
    vec shifted = x * all(1.44269504f) + all(12582912.0f), n = shifted - all(12582912.0f);
    vec r = x - n * all(0.693145752f) - n * all(1.42860677e-6f);
    vec p = all(1.0f / 5040.0f);
    p = p * r + all(1.0f / 720.0f);
    p = p * r + all(1.0f / 120.0f);
    p = p * r + all(1.0f / 24.0f);
    p = p * r + all(1.0f / 6.0f);
    p = p * r + all(0.5f);
    p = p * r + all(1.0f);
    p = p * r + all(1.0f);
    return p * (vec)(((ints)shifted << 23) + ((ints){0} + 0x3f800000));
}

/* `sums` and the products of BYTES whole numbers: a from 0 to 255, w from -128 to 127. */
#if defined(__AVX512VNNI__)
#define BYTES 64
INLINE ints products(ints sums, const uint8_t *a, const int8_t *w) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_loadu_si512(a), _mm512_loadu_si512(w));
}
#elif defined(__AVX512BW__)
#define BYTES 32
INLINE ints products(ints sums, const uint8_t *a, const int8_t *w) {
    __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)a));
    return sums + (ints)_mm512_madd_epi16(wide, _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)w)));
}
#elif defined(__AVX2__) && LANES == 8
#define BYTES 16
INLINE ints products(ints sums, const uint8_t *a, const int8_t *w) {
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)a));
    return sums + (ints)_mm256_madd_epi16(wide, _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)w)));
}
#else
#define BYTES LANES
INLINE ints products(ints sums, const uint8_t *a, const int8_t *w) {
    for (int l = 0; l < LANES; l++) sums[l] += a[l] * w[l];
    return sums;
}
#endif

/* x (width,) in steps of a 127.5th of the largest, 128 added; the step. What is no number makes the step none. */
static float rounded(const float *x, int width, uint8_t *out) {
    vec most = {0}, none = {0};
    float largest = 0, rest = 0;
    int i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec v = at(x + i), size = (vec)((ints)v & 0x7fffffff);
        ints more = size > most;
        most = (vec)(((ints)size & more) | ((ints)most & ~more));
        none += v * all(0);
    }
    for (; i < width; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest, rest += x[i] * 0;
    for (int l = 0; l < LANES; l++) largest = most[l] > largest ? most[l] : largest;
    float step = largest > 0 ? largest / 127.5f : 1.0f;
    for (i = 0; i < width; i += LANES) {
        int now = width - i < LANES ? width - i : LANES;
        float held[LANES] = {0};
        memcpy(held, x + i, 4 * now);
        ints n = (ints)(at(held) / all(step) + all(12582912.0f)) - (0x4b400000 - 128);
        n &= n > 0;
        n = (n & (n < 255)) | (255 & (n >= 255));
        bytes b = __builtin_convertvector(n, bytes);
        memcpy(out + i, &b, now);
    }
    return step + sum(none) + rest;
}

INLINE void put(const Matrix *m, int n, float s, float *to, float share) {
    if (m->bias) s += m->bias[n];
    *to = share == 0.0f ? s : *to + share * s;
}

/* Outputs of `wide` rows from n on for `tall` tokens from `first` on, in whole numbers. */
INLINE void whole(int wide, int tall, const Matrix *m, int n, const Rows *rows, int first, float *out, int stride, float share) {
    long k = m->inputs, i = 0;
    const int8_t *w = (const int8_t *)m->weight + n * k;
    const uint8_t *x = rows->rounded + first * k;
    ints sums[WIDE > 4 ? WIDE : 4][TALL] = {{{0}}};
    for (; i + BYTES <= k; i += BYTES)
        for (int t = 0; t < tall; t++)
            for (int r = 0; r < wide; r++) sums[r][t] = products(sums[r][t], x + t * k + i, w + r * k + i);
    for (int r = 0; r < wide; r++)
        for (int t = 0; t < tall; t++) {
            int32_t s = total(sums[r][t]) - 128 * m->sums[n + r];
            for (long j = i; j < k; j++) s += x[t * k + j] * w[r * k + j];
            put(m, n + r, s * m->scale[n + r] * rows->steps[first + t], out + (long)(first + t) * stride + n + r, share);
        }
}

/* Sums of `wide` outputs from n on and `tall` tokens from `first` on. */
INLINE void tile(int kind, int wide, int tall, const Matrix *m, int n, const Rows *rows, int first, float *out, int stride, float share) {
    if (kind == ROUNDED) {
        whole(wide, tall, m, n, rows, first, out, stride, share);
        return;
    }
    long k = m->inputs, i = 0, row = (long)n * k;
    const float *x = rows->x + first * k;
    vec sums[WIDE > 4 ? WIDE : 4][TALL] = {{{0}}};
    for (; i + LANES <= k; i += LANES) {
        vec w[WIDE > 4 ? WIDE : 4];
        for (int r = 0; r < wide; r++) w[r] = load(kind, m->weight, row + r * k + i);
        for (int t = 0; t < tall; t++) {
            vec a = at(x + t * k + i);
            for (int r = 0; r < wide; r++) sums[r][t] += a * w[r];
        }
    }
    for (int r = 0; r < wide; r++)
        for (int t = 0; t < tall; t++) {
            float s = sum(sums[r][t]);
            for (long j = i; j < k; j++) s += x[t * k + j] * one(kind, m->weight, row + r * k + j);
            if (kind == INT8) s *= m->scale[n + r];
            put(m, n + r, s, out + (long)(first + t) * stride + n + r, share);
        }
}

INLINE void column(int kind, int wide, const Matrix *m, int n, const Rows *x, int tokens, float *out, int stride, float share) {
    int t = 0;
    for (; t + TALL <= tokens; t += TALL) tile(kind, wide, TALL, m, n, x, t, out, stride, share);
    if (tokens - t == 3) tile(kind, wide, 3, m, n, x, t, out, stride, share);
    if (tokens - t == 2) tile(kind, wide, 2, m, n, x, t, out, stride, share);
    if (tokens - t == 1) tile(kind, wide, 1, m, n, x, t, out, stride, share);
}

INLINE void columns(int kind, const Matrix *m, const Rows *x, int tokens, float *out, float share, int from, int to) {
    int n = from, stride = m->outputs;
    if (tokens == 1)
        for (; n + 4 <= to; n += 4) tile(kind, 4, 1, m, n, x, 0, out, stride, share);
    for (; n + WIDE <= to; n += WIDE) column(kind, WIDE, m, n, x, tokens, out, stride, share);
    for (; n < to; n++) column(kind, 1, m, n, x, tokens, out, stride, share);
}

/* Outputs `from` to `to` of x (tokens, inputs): put in `out` (tokens, outputs), or added to it, `share` times. */
static void product(const Matrix *m, const Rows *x, int tokens, float *out, float share, int from, int to) {
    if (to > m->outputs) to = m->outputs;
    if (m->sums) columns(ROUNDED, m, x, tokens, out, share, from, to);
    else if (m->kind == FLOAT32) columns(FLOAT32, m, x, tokens, out, share, from, to);
    else if (m->kind == BFLOAT16) columns(BFLOAT16, m, x, tokens, out, share, from, to);
    else columns(INT8, m, x, tokens, out, share, from, to);
}

static void normed(const float *x, const float *weight, int width, float epsilon, float scale, float *out) {
    vec squares = {0};
    float rest = 0;
    int i = 0;
    for (; i + LANES <= width; i += LANES) squares += at(x + i) * at(x + i);
    for (; i < width; i++) rest += x[i] * x[i];
    float root = 1.0f / sqrtf((sum(squares) + rest) / width + epsilon);
    for (i = 0; i < width; i++) out[i] = x[i] * root * weight[i] * scale;
}

/* Su et al. 2021 in Llama's order: the first half of what is turned with the second. */
static void turn(float *x, const float *cosines, const float *sines, int rotary) {
    for (int i = 0, half = rotary / 2; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] - second * sines[i];
        x[i + half] = second * cosines[i + half] + first * sines[i + half];
    }
}

/* gate <- activation(gate) * up */
static void gated(float *gate, const float *up, int count, int activation) {
    int i = 0;
    for (; i < count; i += LANES) {
        float g[LANES] = {0};
        int now = count - i < LANES ? count - i : LANES;
        memcpy(g, gate + i, 4 * now);
        vec x = at(g), y;
        if (activation == GELU) {
            for (int l = 0; l < LANES; l++) y[l] = 0.5f * x[l] * (1.0f + erff(x[l] * 0.70710678f));
        } else { /* 0.5 (1 + tanh(z)) is the sigmoid of 2 z */
            vec z = x;
            if (activation == GELU_TANH) z = all(1.59576912f) * (x + all(0.044715f) * x * x * x);
            y = x / (all(1.0f) + power(-z));
        }
        for (int l = 0; l < now; l++) gate[i + l] = y[l] * up[i + l];
    }
}

/* What a block's values add to `to` (width,): sums over its `count` keys of shares[key] times value. */
static void gather(const float *values, const float *shares, int count, int step, int width, float *to) {
    int i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) {
        vec sums[4];
        for (int l = 0; l < 4; l++) sums[l] = at(to + i + l * LANES);
        for (int j = 0; j < count; j++)
            for (int l = 0; l < 4; l++) sums[l] += all(shares[j]) * at(values + (long)j * step + i + l * LANES);
        for (int l = 0; l < 4; l++) *(vec *)(to + i + l * LANES) = sums[l];
    }
    for (; i + LANES <= width; i += LANES)
        for (int j = 0; j < count; j++) *(vec *)(to + i) += all(shares[j]) * at(values + (long)j * step + i);
    for (; i < width; i++)
        for (int j = 0; j < count; j++) to[i] += shares[j] * values[(long)j * step + i];
}

/* softmax(scale q k') v of one token and `group` heads that share keys: q and out (group, width); the keys of `length` tokens, `step`
   numbers from one to the next, in `blocks`; `scores` is room for (group, length), rounded up to LANES. */
static void attend(const float *q, const float *keys, const float *values, const int64_t *blocks, int length, int group, int width,
                   int step, float scale, float *scores, float *out) {
    int padded = (length + LANES - 1) / LANES * LANES;
    for (int j = 0; j < length; j++) {
        const float *key = keys + (blocks[j / BLOCK] * BLOCK + j % BLOCK) * step;
        for (int g = 0; g < group; g++) {
            vec s = {0};
            float rest = 0;
            int i = 0;
            for (; i + LANES <= width; i += LANES) s += at(q + g * width + i) * at(key + i);
            for (; i < width; i++) rest += q[g * width + i] * key[i];
            scores[g * padded + j] = scale * (sum(s) + rest);
        }
    }
    for (int g = 0; g < group; g++) {
        float *row = scores + g * padded, most = -INFINITY;
        for (int j = 0; j < length; j++) most = row[j] > most ? row[j] : most;
        for (int j = length; j < padded; j++) row[j] = -INFINITY;
        vec whole = {0};
        for (int j = 0; j < padded; j += LANES) whole += *(vec *)(row + j) = power(at(row + j) - all(most));
        vec share = all(1.0f / sum(whole));
        for (int j = 0; j < padded; j += LANES) *(vec *)(row + j) *= share;
        memset(out + g * width, 0, 4 * width);
    }
    for (int j = 0; j < length; j += BLOCK) {
        const float *block = values + blocks[j / BLOCK] * BLOCK * step;
        int count = length - j < BLOCK ? length - j : BLOCK;
        for (int g = 0; g < group; g++) gather(block, scores + g * padded + j, count, step, width, out + g * width);
    }
}

/* All products of a phase are shared among the threads, RUN outputs at a time. */
#define SHARED(n) _Pragma("omp for schedule(dynamic) nowait") for (int from = 0; from < (n); from += RUN)

#define ROUND(x, width) steps[t] = rounded((x) + (long)t * (width), width, small + (long)t * (width))

/* x (tokens, width), the residual stream, through all blocks; then, normed, in its own place. 1: there is no memory. */
int trivium_pass(const Model *m, const Pass *p, float *x, int threads) {
    const int tokens = p->tokens, width = m->width, head = m->head_width, group = m->heads / m->kv_heads;
    const int step = m->kv_heads * head, wide = m->heads * head;
    const long scores = (long)group * (p->columns * BLOCK + LANES);
    const long each = (long)width + 2 * wide + 2 * step + 2 * m->hidden + 1;
    const long most = m->hidden > wide ? m->hidden > width ? m->hidden : width : wide > width ? wide : width;
    float *room = malloc(4 * (tokens * each + threads * scores) + tokens * most);
    if (!room) return 1;
    float *norm = room, *q = norm + (long)tokens * width, *k = q + (long)tokens * wide, *v = k + (long)tokens * step;
    float *seen = v + (long)tokens * step, *gate = seen + (long)tokens * wide, *up = gate + (long)tokens * m->hidden;
    float *steps = up + (long)tokens * m->hidden, *rows = steps + tokens;
    uint8_t *small = (uint8_t *)(rows + threads * scores);
    const Rows normal = {norm, small, steps}, mixed = {seen, small, steps}, inner = {gate, small, steps};
    const int together = tokens * m->kv_heads >= 4 * threads ? group : 1; /* heads that a thread takes at a time */
#pragma omp parallel num_threads(threads)
    for (const Layer *l = m->layers; l < m->layers + m->count; l++) {
#pragma omp for
        for (int t = 0; t < tokens; t++) {
            normed(x + (long)t * width, l->norm, width, m->epsilon, 1, norm + (long)t * width);
            if (l->query.sums || l->key.sums || l->value.sums) ROUND(norm, width);
        }
        SHARED(wide) product(&l->query, &normal, tokens, q, 0, from, from + RUN);
        SHARED(step) product(&l->key, &normal, tokens, k, 0, from, from + RUN);
        SHARED(step) product(&l->value, &normal, tokens, v, 0, from, from + RUN);
#pragma omp barrier
#pragma omp for
        for (int t = 0; t < tokens; t++) {
            const float *cosines = p->cosines + (long)t * m->rotary, *sines = p->sines + (long)t * m->rotary;
            for (int h = 0; h < m->heads + m->kv_heads; h++) {
                float *one = h < m->heads ? q + (long)t * wide + h * head : k + (long)t * step + (h - m->heads) * head;
                const float *weight = h < m->heads ? l->query_norm : l->key_norm;
                if (weight) normed(one, weight, head, m->epsilon, 1, one);
                if (l->turned) turn(one, cosines, sines, m->rotary);
            }
            long place = p->places[t], block = p->table[(long)(t / p->each) * p->columns + place / BLOCK];
            memcpy(l->keys + (block * BLOCK + place % BLOCK) * step, k + (long)t * step, 4 * step);
            memcpy(l->values + (block * BLOCK + place % BLOCK) * step, v + (long)t * step, 4 * step);
        }
#pragma omp for schedule(dynamic)
        for (int n = 0; n < tokens * m->heads / together; n++) {
            int t = n * together / m->heads, first = n * together % m->heads, shift = first / group * head;
            attend(q + (long)t * wide + first * head, l->keys + shift, l->values + shift, p->table + (long)(t / p->each) * p->columns,
                   (int)p->places[t] + 1, together, head, step, m->attention_scale, rows + THREAD * scores,
                   seen + (long)t * wide + first * head);
        }
        if (l->out.sums) {
#pragma omp for
            for (int t = 0; t < tokens; t++) ROUND(seen, wide);
        }
        SHARED(width) product(&l->out, &mixed, tokens, x, m->residual_scale, from, from + RUN);
#pragma omp barrier
#pragma omp for
        for (int t = 0; t < tokens; t++) {
            normed(x + (long)t * width, l->inner_norm, width, m->epsilon, 1, norm + (long)t * width);
            if (l->gate.sums || l->up.sums) ROUND(norm, width);
        }
        SHARED(m->hidden) {
            int now = m->hidden - from < RUN ? m->hidden - from : RUN;
            product(&l->gate, &normal, tokens, gate, 0, from, from + now);
            product(&l->up, &normal, tokens, up, 0, from, from + now);
            for (int t = 0; t < tokens; t++)
                gated(gate + (long)t * m->hidden + from, up + (long)t * m->hidden + from, now, m->activation);
        }
#pragma omp barrier
        if (l->down.sums) {
#pragma omp for
            for (int t = 0; t < tokens; t++) ROUND(gate, m->hidden);
        }
        SHARED(width) product(&l->down, &inner, tokens, x, m->residual_scale, from, from + RUN);
#pragma omp barrier
    }
    for (int t = 0; t < tokens; t++)
        normed(x + (long)t * width, m->norm, width, m->epsilon, m->norm_scale, x + (long)t * width);
    free(room);
    return 0;
}

/* x (tokens, inputs) -> out (tokens, outputs). 1: there is no memory. */
int trivium_product(const Matrix *m, const float *x, int tokens, float *out, int threads) {
    float *steps = m->sums ? malloc(4 * tokens + (long)tokens * m->inputs) : NULL;
    if (m->sums && !steps) return 1;
    uint8_t *small = (uint8_t *)(steps + tokens);
    for (int t = 0; t < tokens && m->sums; t++) ROUND(x, m->inputs);
    const Rows rows = {x, small, steps};
#pragma omp parallel num_threads(threads)
    SHARED(m->outputs) product(m, &rows, tokens, out, 0, from, from + RUN);
    free(steps);
    return 0;
}
