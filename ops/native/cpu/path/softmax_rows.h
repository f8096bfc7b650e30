// Softmax of a row of 8-bit scores, by tables over the distance to the row's maximum
// (ops/attention/SPEC.md, lines 2 and 3). A row is a multiple of 64 bytes long and is filled up
// with weights of zero.
#pragma once

#include "ops/fqvit_softmax/kernel.h"
#include "ops/native/cpu/attention_job.h"
#include "ops/native/cpu/path/table.h"

namespace mnq {
namespace MNQ_PATH {

// For each level the first distance that reaches it: kept from row to row as the place to search.
struct Cuts {
  int first[normalized_levels] = {};
};

MNQ_INNER void find_cuts(const SoftmaxTables& tables, int64_t sum, int level, int count,
                         Cuts& cuts) {
  for (int i = 0; i < count; ++i) {
    const int64_t* needed = tables.needed + (level + i) * distances;
    int t = cuts.first[i];
    while (t < distances && needed[t] > sum) ++t;
    while (t > 0 && needed[t - 1] <= sum) --t;
    cuts.first[i] = t;
  }
}

#if defined(__AVX512VBMI__)

MNQ_INNER __m512i add_bytes(__m512i sum, __m512i bytes) {
  return _mm512_add_epi64(sum, _mm512_sad_epu8(bytes, _mm512_setzero_si512()));
}

#endif

// Distances of a row in place of its scores, and zeros behind it.
MNQ_INNER void to_distances(int8_t* row, int64_t keys, int64_t stride) {
  const int top = row_max(row, keys);
#if defined(__AVX512VBMI__)
  const __m512i tops = _mm512_set1_epi8(static_cast<char>(top));
  for (int64_t j = 0; j < stride; j += 64) {
    const __m512i t = _mm512_sub_epi8(tops, _mm512_loadu_si512(row + j));
    _mm512_storeu_si512(row + j, _mm512_maskz_mov_epi8(first_bytes(keys - j), t));
  }
#else
  for (int64_t j = 0; j < keys; ++j) row[j] = static_cast<int8_t>(top - row[j]);
  for (int64_t j = keys; j < stride; ++j) row[j] = 0;
#endif
}

// Weights of a row in place of its scores, each from the table; returns their sum.
MNQ_INNER int64_t table_weights(const uint8_t* table, int8_t* row, int64_t keys, int64_t stride) {
#if defined(__AVX512VBMI__)
  const ByteTable bytes(table, table + 128);
  const __m512i top = _mm512_set1_epi8(static_cast<char>(row_max(row, keys)));
  __m512i sum = _mm512_setzero_si512();
  for (int64_t j = 0; j < stride; j += 64) {
    const __m512i t = _mm512_sub_epi8(top, _mm512_loadu_si512(row + j));
    const __m512i weights = _mm512_maskz_mov_epi8(first_bytes(keys - j), bytes.at(t));
    _mm512_storeu_si512(row + j, weights);
    sum = add_bytes(sum, weights);
  }
  return _mm512_reduce_add_epi64(sum);
#else
  to_distances(row, keys, stride);
  int64_t sum = 0;
  for (int64_t j = 0; j < keys; ++j) {
    const uint8_t weight = table[static_cast<uint8_t>(row[j])];
    row[j] = static_cast<int8_t>(weight);
    sum += weight;
  }
  return sum;
#endif
}

// The exact sum of a row's exponentials, by their bytes.
MNQ_INNER int64_t sum_exps(const SoftmaxTables& tables, const uint8_t* t, int64_t keys) {
#if defined(__AVX512VBMI__)
  int64_t total = 0;
  for (int i = 0; i < tables.exp_width; ++i) {
    const uint8_t* plane = tables.exp_bytes + i * distances;
    const ByteTable bytes(plane, plane + 128);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t j = 0; j < keys; j += 64) {
      const __m512i values = bytes.at(_mm512_loadu_si512(t + j));
      sum = add_bytes(sum, _mm512_maskz_mov_epi8(first_bytes(keys - j), values));
    }
    total += _mm512_reduce_add_epi64(sum) << (8 * i);
  }
  return total;
#else
  int64_t total = 0;
  for (int64_t j = 0; j < keys; ++j) total += tables.exps[t[j]];
  return total;
#endif
}

// Weights by distance for a row's sum, one table for each byte plane. Returns Lmin (0 in the
// normalized form, which does not use it).
MNQ_INNER int log2_weights(const SoftmaxTables& tables, int64_t sum, const uint8_t* row,
                           int64_t keys, Cuts& cuts, uint8_t* high, uint8_t* low) {
  const bool deferred = tables.kind == Softmax::log2;
  const int count = deferred ? deferred_levels : normalized_levels;
  const int top = deferred ? 7 : 15;
  const auto set = [&](int t, int level) {
    const int p = level < count ? 1 << (top - level) : 0;
    high[t] = static_cast<uint8_t>(deferred ? p : p >> 8);
    low[t] = static_cast<uint8_t>(p);
  };
  if (tables.needed == nullptr) {
    int64_t least = deferred ? fqvit_never : 0;
    for (int64_t j = 0; deferred && j < keys; ++j) {
      least = mnq::least(least, negative_log2(sum, tables.exps[row[j]]));
    }
    for (int t = 0; t < distances; ++t) {
      set(t, static_cast<int>(most(negative_log2(sum, tables.exps[t]) - least, 0)));
    }
    return static_cast<int>(least);
  }
  const int least = deferred ? static_cast<int>(negative_log2(sum, tables.exps[0])) : 0;
  find_cuts(tables, sum, least + 1, count, cuts);
  int t = 0;
  for (int level = 0; level < count; ++level) {
    for (; t < cuts.first[level]; ++t) set(t, level);
  }
  for (; t < distances; ++t) set(t, count);
  return least;
}

#if defined(__AVX512VBMI__)

// The deferred form for exponentials that fall with the distance: all levels at once.
MNQ_INNER int weigh_by_cuts(const SoftmaxTables& tables, int64_t sum, uint8_t* row, int64_t keys,
                            int64_t stride) {
  const Guess& guess = tables.guesses[guess_number(sum) - tables.first_guess];
  const int more = tables.needed[(guess.least + 1) * distances] <= sum;
  const int least = guess.least + more;
  const __m512i one = _mm512_set1_epi64(1), sums = _mm512_set1_epi64(sum);
  __m512i cuts = _mm512_cvtepu16_epi64(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(guess.cuts + more)));
  const __m512i rows = _mm512_add_epi64(_mm512_set1_epi64((least + 1) * distances - 1),
                                        _mm512_setr_epi64(0, 256, 512, 768, 1024, 1280, 1536, 1792));
  for (__mmask8 moving = 0xff; moving != 0;) {  // once or twice: a guess is for 6 % of a sum
    const __m512i before = _mm512_i64gather_epi64(_mm512_add_epi64(rows, cuts), tables.needed, 8);
    moving = _mm512_cmple_epi64_mask(before, sums);
    cuts = _mm512_mask_sub_epi64(cuts, moving, cuts, one);
  }
  // A distance has as many levels as cuts below it. The first cut is 1 at least: L(0) is Lmin.
  uint8_t below[deferred_levels];
  _mm_storel_epi64(reinterpret_cast<__m128i*>(below),
                   _mm512_cvtepi64_epi8(_mm512_sub_epi64(cuts, one)));
  const __m512i weights = _mm512_broadcast_i32x4(_mm_setr_epi8(
      static_cast<char>(128), 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m512i byte_one = _mm512_set1_epi8(1);
  for (int64_t j = 0; j < stride; j += 64) {
    const __m512i t = _mm512_loadu_si512(row + j);
    __m512i level = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < deferred_levels; ++i) {
      const __m512i cut = _mm512_set1_epi8(static_cast<char>(below[i]));
      level = _mm512_mask_add_epi8(level, _mm512_cmpgt_epu8_mask(t, cut), level, byte_one);
    }
    _mm512_storeu_si512(row + j, _mm512_maskz_shuffle_epi8(first_bytes(keys - j), weights, level));
  }
  return least;
}

#endif

// Weights of a row of distances for its sum, in place and into `low`; see log2_weights.
MNQ_INNER int weigh_log2(const SoftmaxTables& tables, int64_t sum, uint8_t* row, uint8_t* low,
                         int64_t keys, int64_t stride, Cuts& cuts) {
#if defined(__AVX512VBMI__)
  if (tables.needed != nullptr && tables.kind == Softmax::log2) {
    return weigh_by_cuts(tables, sum, row, keys, stride);
  }
#endif
  uint8_t high_table[distances], low_table[distances];
  const int least = log2_weights(tables, sum, row, keys, cuts, high_table, low_table);
  for (int64_t j = 0; j < keys; ++j) {
    low[j] = low_table[row[j]];
    row[j] = high_table[row[j]];
  }
  for (int64_t j = keys; j < stride; ++j) row[j] = low[j] = 0;
  return least;
}

// Weights of a row in place of its scores; with a normalized form `low` takes the second plane.
// Returns the factor of the deferred form's line 4.
static int32_t softmax_row(const SoftmaxTables& tables, int8_t* row, uint8_t* low, int64_t keys,
                           int64_t stride, Cuts& cuts) {
  auto* codes = reinterpret_cast<uint8_t*>(row);
  if (tables.kind == Softmax::table) {
    return static_cast<int32_t>(power_of_two(31) /
                                table_weights(tables.weights, row, keys, stride));
  }
  to_distances(row, keys, stride);
  if (tables.kind == Softmax::scaled) {
    uint64_t sum = 0;
    for (int64_t j = 0; j < keys; ++j) sum += tables.numerators[codes[j]];
    if (sum > tables.largest_sum) sum = tables.largest_sum;
    const uint64_t factor = tables.dividend / sum;
    for (int64_t j = 0; j < keys; ++j) {
      const uint64_t p = tables.numerators[codes[j]] * factor >> 16;
      codes[j] = static_cast<uint8_t>(p >> 8);
      low[j] = static_cast<uint8_t>(p);
    }
    for (int64_t j = keys; j < stride; ++j) low[j] = 0;
    return 0;
  }
  const int64_t sum = sum_exps(tables, codes, keys);
  const int least = weigh_log2(tables, sum, codes, low, keys, stride, cuts);
  return static_cast<int32_t>(power_of_two(24 - least));
}

}  // namespace MNQ_PATH
}  // namespace mnq
