// What one call of `Path::attend` works on, and the tables that hold a head's softmax.
#pragma once

#include "ops/native/core.h"
#include "ops/native/cpu/jobs.h"

namespace mnq {

constexpr int64_t distances = 256;  // of an 8-bit score to its row's maximum: 0..255

// How a row of distances becomes weights (ops/attention/SPEC.md).
enum class Softmax {
  table,         // deferred: weights[t], divided by their sum
  log2,          // deferred fqvit: 2^(7 - (L - Lmin)), divided by 2^(Lmin + 7)
  scaled,        // normalized: P = (numerators[t] * F) >> 16, F = dividend / min(sum, largest_sum)
  scaled_log2,   // normalized fqvit: P = 2^(15 - L)
};

constexpr int deferred_levels = 8;     // weights 2^7 .. 2^0
constexpr int normalized_levels = 15;  // probabilities 2^15 .. 2^1

// For all row sums with the same five leading bits: Lmin of the smallest, and the first distance
// that reaches each level above it. A larger sum moves distances down, never up, and Lmin by one at
// the most.
struct Guess {
  int32_t least;
  uint16_t cuts[deferred_levels + 1];
};

// The guess for a row sum > 0, as a number that grows with it: bits, and the four after the first.
MNQ_CORE int64_t guess_number(int64_t sum) {
  const int64_t bits = bit_length(sum);
  const int64_t lead = bits > 5 ? sum >> (bits - 5) : sum << (5 - bits);
  return bits * 16 + (lead & 15);
}

// Of one head; arrays are indexed by distance.
struct SoftmaxTables {
  Softmax kind;
  const uint8_t* weights;
  const uint32_t* numerators;
  uint64_t dividend, largest_sum;
  const int64_t* exps;
  // needed[level * 256 + t]: the smallest row sum for which L(t) >= level, for all levels that a
  // row can have. Null if exps do not fall with the distance: then every element is computed for
  // itself.
  const int64_t* needed;
  // Where to begin to look: guesses[guess_number(sum) - first_guess].
  const Guess* guesses;
  int64_t first_guess;
  const uint8_t* exp_bytes;  // exps byte by byte, lowest first: exp_bytes[i * 256 + t]
  int exp_width;             // how many bytes the largest has
};

// Rows of queries against all keys of one head.
struct AttentionJob {
  const int8_t* q;
  int64_t q_stride, rows, depth, keys;
  const int8_t* key_panels;    // (depth, keys), packed
  const int32_t* key_offsets;  // of that packing
  const int8_t* value_panels;  // (keys, depth), packed
  const int32_t* zeros;        // of all columns of the value panels
  // Added to the accumulators of the scores, row by row; null for none.
  const int32_t* bias;
  int64_t bias_row_stride, bias_column_stride;
  Rescaling score_scale;
  int32_t score_lo, score_hi;
  SoftmaxTables softmax;
  Rescaling scale;
  int32_t lo, hi;
  int8_t* y;
  int64_t y_stride;
  char* scratch;  // attention_scratch(keys, depth) bytes, aligned to 64
};

constexpr int64_t attention_rows = 32;  // of a block
constexpr int64_t most_block_rows = attention_rows + 15;  // of the last one: no block below a tile

// x up to a whole cache line.
MNQ_CORE int64_t to_line(int64_t x) { return (x + 63) / 64 * 64; }

// Bytes of a task's scratch memory: queries, two planes of weights and their wide form, and
// accumulators of scores and of both planes (path/attention.h).
MNQ_CORE int64_t attention_scratch(int64_t keys, int64_t depth) {
  const int64_t key_bytes = to_line(keys), columns = keys > depth ? keys : depth;
  return most_block_rows *
         (to_line(2 * depth) + 4 * key_bytes + 4 * to_line(columns) + 4 * to_line(depth));
}

}  // namespace mnq
