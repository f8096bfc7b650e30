// Attention of one head, by blocks of rows: scores, softmax and product with the values without
// leaving the caches (ops/attention/SPEC.md).
#pragma once

#include "ops/native/cpu/attention_job.h"
#include "ops/native/cpu/path/gemm.h"
#include "ops/native/cpu/path/softmax_rows.h"

namespace mnq {
namespace MNQ_PATH {

// The parts of a task's scratch memory.
struct AttentionScratch {
  int8_t* queries;    // prepared rows
  int8_t* codes;      // scores, then weights: rows of `stride` bytes
  uint8_t* low;       // second byte plane of the weights
  int8_t* widened;    // weights as AVX2 multiplies them
  int32_t* sums;      // accumulators of scores (with a bias) or of outputs
  int32_t* low_sums;  // accumulators of the second plane
  int64_t stride;

  explicit AttentionScratch(const AttentionJob& job) : stride(to_line(job.keys)) {
    char* at = job.scratch;
    const auto take = [&](int64_t row_bytes) {
      char* part = at;
      at += most_block_rows * row_bytes;
      return part;
    };
    queries = reinterpret_cast<int8_t*>(take(to_line(2 * job.depth)));
    codes = reinterpret_cast<int8_t*>(take(stride));
    low = reinterpret_cast<uint8_t*>(take(stride));
    widened = reinterpret_cast<int8_t*>(take(2 * stride));
    const int64_t columns = job.keys > job.depth ? job.keys : job.depth;
    sums = reinterpret_cast<int32_t*>(take(4 * to_line(columns)));
    low_sums = reinterpret_cast<int32_t*>(take(4 * to_line(job.depth)));
  }
};

MNQ_INNER LinearJob product_job(const int8_t* a, int64_t a_stride, int64_t rows, int64_t k,
                                const int8_t* panels, const int32_t* bias, int64_t columns) {
  LinearJob job{};
  job.a = a;
  job.a_stride = a_stride;
  job.k = k;
  job.panels = panels;
  job.last_panel = (columns + panel_columns - 1) / panel_columns;
  job.bias = bias;
  job.finish.rows = rows;
  job.finish.columns = columns;
  return job;
}

// Scores of a block as int8 codes.
MNQ_INNER void scores(const AttentionJob& job, const AttentionScratch& scratch, int64_t row,
                      int64_t rows) {
  const int8_t* q = job.q + row * job.q_stride;
  int64_t stride = job.q_stride;
  const int64_t prepared = prepared_stride(job.depth);
  if (prepared != 0 || rows < row_tile) {
    stride = prepared != 0 ? prepared : job.depth;
    prepare(q, job.q_stride, rows, job.depth, scratch.queries);
    q = scratch.queries;
  }
  LinearJob product =
      product_job(q, stride, rows, job.depth, job.key_panels, job.key_offsets, job.keys);
  RequantizeJob& finish_job = product.finish;
  finish_job.y = scratch.codes;
  finish_job.y_type = Type::int8;
  finish_job.y_stride = scratch.stride;
  finish_job.scale = job.score_scale;
  finish_job.lo = job.score_lo;
  finish_job.hi = job.score_hi;
  if (job.bias == nullptr) {
    linear_rows(product);
    return;
  }
  product.raw = true;
  product.finish.y = scratch.sums;
  linear_rows(product);
  for (int64_t i = 0; i < rows; ++i) {
    int32_t* sums = scratch.sums + i * scratch.stride;
    const int32_t* bias = job.bias + (row + i) * job.bias_row_stride;
    for (int64_t j = 0; j < job.keys; ++j) {
      sums[j] = static_cast<int32_t>(static_cast<uint32_t>(sums[j]) +
                                     static_cast<uint32_t>(bias[j * job.bias_column_stride]));
    }
  }
  finish_job.y = scratch.codes;
  finish(finish_job, scratch.sums, scratch.stride, 0, rows, 0, job.keys);
}

// Accumulators of a block: weights, a plane of unsigned bytes, times values.
MNQ_INNER void weigh_values(const AttentionJob& job, const AttentionScratch& scratch,
                            const uint8_t* weights, int64_t rows, int32_t* sums) {
  const int8_t* a = reinterpret_cast<const int8_t*>(weights);
  int64_t stride = scratch.stride;
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
  prepare_unsigned(weights, stride, rows, job.keys, scratch.widened);
  a = scratch.widened;
  stride = prepared_stride(job.keys);
#endif
  LinearJob product =
      product_job(a, stride, rows, job.keys, job.value_panels, job.zeros, job.depth);
  product.raw = product.unsigned_a = true;
  product.finish.y = sums;
  product.finish.y_stride = to_line(job.depth);
  linear_rows(product);
}

// Line 4 of the deferred form: sums become round_half_up(sum * factor / 2^16).
MNQ_INNER void divide_row(int32_t* sums, int64_t depth, int32_t factor) {
  const WideFactor f(repeat(factor), repeat(16));
  for (int64_t j = 0; j < depth; j += lanes) store(sums + j, narrow_rescale(load(sums + j), f));
}

// `Path::attend`.
static void attend(const AttentionJob& job) {
  [[maybe_unused]] const ProductState state;
  const AttentionScratch scratch(job);
  const int64_t sums_stride = to_line(job.depth);
  const bool deferred = job.softmax.kind == Softmax::table || job.softmax.kind == Softmax::log2;
  RequantizeJob output{};
  output.y_type = Type::int8;
  output.y_stride = job.y_stride;
  output.scale = job.scale;
  output.lo = job.lo;
  output.hi = job.hi;
  int32_t factors[most_block_rows];
  Cuts cuts;
  for (int64_t row = 0; row < job.rows;) {
    const int64_t left = job.rows - row;
    const int64_t rows = left <= most_block_rows ? left : attention_rows;
    scores(job, scratch, row, rows);
    for (int64_t i = 0; i < rows; ++i) {
      int8_t* codes = scratch.codes + i * scratch.stride;
      factors[i] = softmax_row(job.softmax, codes, scratch.low + i * scratch.stride, job.keys,
                               scratch.stride, cuts);
    }
    const auto* high = reinterpret_cast<const uint8_t*>(scratch.codes);
    weigh_values(job, scratch, high, rows, scratch.sums);
    if (deferred) {
      for (int64_t i = 0; i < rows; ++i) {
        divide_row(scratch.sums + i * sums_stride, job.depth, factors[i]);
      }
    } else {
      weigh_values(job, scratch, scratch.low, rows, scratch.low_sums);
      for (int64_t i = 0; i < rows * sums_stride; i += lanes) {
        const Lanes sum = shift_left(load(scratch.sums + i), repeat(8));
        store(scratch.sums + i, add(sum, load(scratch.low_sums + i)));
      }
    }
    output.y = job.y + row * job.y_stride;
    finish(output, scratch.sums, sums_stride, 0, rows, 0, job.depth);
    row += rows;
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
