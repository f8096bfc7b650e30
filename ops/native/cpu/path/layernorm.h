// LayerNorm of rows (ops/ivit_layernorm/SPEC.md, ops/ibert_layernorm/SPEC.md; FqVitLayerNorm is in
// layernorm_fqvit.h): a pass for the sums of 16 rows, their factors together, a pass for the codes.
#pragma once

#include "ops/native/cpu/layernorm_job.h"
#include "ops/native/cpu/path/layernorm_fqvit.h"
#include "ops/native/cpu/path/layernorm_lanes.h"
#include "ops/native/cpu/path/layernorm_rows.h"

namespace mnq {
namespace MNQ_PATH {

// Constants of `lanes` columns from j on.
struct ColumnLanes {
  Lanes bq, m, odd_m, half, shift;
};

MNQ_INNER ColumnLanes load_columns(const LayerNormConstants& c, int64_t j) {
  return {load(c.narrow_bq + j), load(c.m + j), load(c.odd_m + j), load(c.half + j),
          load(c.high_shift + j)};
}

// Lines 5 and 6 for columns of which none is wide. abs(d) is at most the root, or 0: d * F fits 32
// bits where root * F < 2^31.
template <bool clamps, class Q>
MNQ_INNER Lanes normalize_lanes(const Q* q, Lanes mean, Lanes factor, const ColumnLanes& column,
                                Lanes lo, Lanes hi) {
  const Lanes product = multiply(subtract(widen(q), mean), factor);
  const Lanes t = add(shift_right<1>(product), column.bq);
  const Lanes high = high_word(t, column.m, column.odd_m);
  const Lanes code = shift_right(add(high, column.half), column.shift);
  return clamps ? smaller(larger(code, lo), hi) : code;
}

// Columns [j, j + 4 * lanes) of all rows: their constants stay in registers.
template <bool clamps, class Q, class Y>
MNQ_INNER void normalize_four(const Q* q, Y* y, int64_t rows, const RowBatch& batch, int64_t j,
                              const LayerNormConstants& c) {
  ColumnLanes columns[4];
  for (int g = 0; g < 4; ++g) columns[g] = load_columns(c, j + g * lanes);
  const Lanes lo = repeat(c.lo), hi = repeat(c.hi);
  const int64_t stride = c.columns;
  for (int64_t i = 0; i < rows; ++i) {
    const Lanes mean = repeat(batch.mean[i]), factor = repeat(batch.factor[i]);
    Lanes codes[4];
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const Q* from = q + i * stride + j + g * lanes;
      codes[g] = normalize_lanes<clamps>(from, mean, factor, columns[g], lo, hi);
    }
    store_four(y + i * stride + j, codes);
  }
}

// Columns [j, j + count) of all rows, count <= lanes.
template <bool clamps, class Q, class Y>
MNQ_INNER void normalize_part(const Q* q, Y* y, int64_t rows, const RowBatch& batch, int64_t j,
                              int64_t count, const LayerNormConstants& c) {
  const ColumnLanes column = load_columns(c, j);
  const Lanes lo = repeat(c.lo), hi = repeat(c.hi);
  for (int64_t i = 0; i < rows; ++i) {
    Q part[lanes] = {};
    Y codes[lanes];
    std::memcpy(part, q + i * c.columns + j, count * sizeof(Q));
    store(codes, normalize_lanes<clamps>(part, repeat(batch.mean[i]), repeat(batch.factor[i]),
                                         column, lo, hi));
    std::memcpy(y + i * c.columns + j, codes, count * sizeof(Y));
  }
}

template <bool clamps, class Q, class Y>
static void normalize_batch(const Q* q, Y* y, int64_t rows, const RowBatch& batch,
                            const LayerNormConstants& c) {
  int64_t j = 0;
  for (; j + 4 * lanes <= c.columns; j += 4 * lanes) {
    normalize_four<clamps>(q, y, rows, batch, j, c);
  }
  for (; j < c.columns; j += lanes) {
    const int64_t count = c.columns - j < lanes ? c.columns - j : lanes;
    normalize_part<clamps>(q, y, rows, batch, j, count, c);
  }
}

// One column by the definition.
template <class Q>
MNQ_INNER int64_t exact_code(const Q* q, int64_t mean, int64_t factor, int64_t j,
                             const LayerNormConstants& c) {
  return layernorm_code(q[j] - mean, factor, c.bq[j], c.m[j], c.e[j], c.lo, c.hi);
}

template <class Q, class Y>
static void exact_row(const Q* q, Y* y, int64_t mean, int64_t factor,
                      const LayerNormConstants& c) {
  for (int64_t j = 0; j < c.columns; ++j) {
    y[j] = static_cast<Y>(exact_code(q, mean, factor, j, c));
  }
}

template <class Q>
static int64_t shifted_variance(const Q* q, int64_t mean, const LayerNormConstants& c) {
  int64_t variance = 0;
  for (int64_t j = 0; j < c.columns; ++j) {
    const int64_t d = (q[j] - mean) >> c.shift;
    variance += d * d;
  }
  return variance;
}

template <LayerNormMethod method, class Q, class Y>
static void normalize_rows(const Q* q, Y* y, int64_t rows, const LayerNormConstants& c) {
  RowBatch batch = {};
  for (; rows > 0; rows -= row_batch, q += row_batch * c.columns, y += row_batch * c.columns) {
    const int64_t count = rows < row_batch ? rows : row_batch;
    for (int64_t i = 0; i < count; ++i) {
      add_row(q + i * c.columns, c.columns, batch.sum[i], batch.squares[i]);
    }
    find_factors<method>(c.columns, batch);
    if (is_whole_type<Y>(c)) {
      normalize_batch<false>(q, y, count, batch, c);
    } else {
      normalize_batch<true>(q, y, count, batch, c);
    }
    for (int64_t i = 0; i < count; ++i) {
      const Q* from = q + i * c.columns;
      Y* to = y + i * c.columns;
      if (method == LayerNormMethod::ibert && c.shift != 0) {
        const int64_t variance = shifted_variance(from, batch.mean[i], c);
        exact_row(from, to, batch.mean[i], ibert_layernorm_factor(variance, c.shift), c);
      } else if (batch.too_wide[i]) {
        exact_row(from, to, batch.mean[i], static_cast<uint32_t>(batch.factor[i]), c);
      } else {
        for (int64_t w = 0; w < c.wide_count; ++w) {
          const int64_t j = c.wide[w];
          to[j] = static_cast<Y>(exact_code(from, batch.mean[i], batch.factor[i], j, c));
        }
      }
    }
  }
}

template <class Q, class Y>
static void layernorm_as(const LayerNormJob& job) {
  const Q* q = static_cast<const Q*>(job.q);
  Y* y = static_cast<Y*>(job.y);
  switch (job.constants->method) {
    case LayerNormMethod::ivit:
      return normalize_rows<LayerNormMethod::ivit>(q, y, job.rows, *job.constants);
    case LayerNormMethod::ibert:
      return normalize_rows<LayerNormMethod::ibert>(q, y, job.rows, *job.constants);
    case LayerNormMethod::fqvit:
      return fqvit_rows(q, y, job.rows, *job.constants);
  }
}

// `Path::layernorm`.
static void layernorm(const LayerNormJob& job) {
  const bool to_bytes = job.y_type == Type::int8;
  if (job.q_type == Type::int16) {
    return to_bytes ? layernorm_as<int16_t, int8_t>(job) : layernorm_as<int16_t, int16_t>(job);
  }
  return to_bytes ? layernorm_as<int8_t, int8_t>(job) : layernorm_as<int8_t, int16_t>(job);
}

}  // namespace MNQ_PATH
}  // namespace mnq
