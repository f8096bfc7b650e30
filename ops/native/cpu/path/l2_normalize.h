// Rows divided by their norms (ops/l2_normalize/SPEC.md): the sums of squares of 32 rows, their
// factors together, the codes.
#pragma once

#include "ops/native/cpu/jobs.h"
#include "ops/native/cpu/path/layernorm_lanes.h"
#include "ops/native/cpu/path/requantize.h"
#include "ops/native/cpu/path/row_sums.h"

namespace mnq {
namespace MNQ_PATH {

constexpr int norm_batch = 32;  // roots and divisions overlap; 32 rows of 1024 stay in the L1 cache

#if defined(__AVX2__)

// Of at most 2^16 codes: below 2^31 in every lane, and together.
MNQ_INNER int64_t sum_of_squares(const int8_t* q, int64_t columns) {
  Lanes sum = repeat(0);
  int64_t j = 0;
  for (; j + word_lanes <= columns; j += word_lanes) {
    sum = add(sum, squares_of_pairs(load_words(q + j)));
  }
  if (j < columns) {
    int8_t rest[word_lanes] = {};
    std::memcpy(rest, q + j, columns - j);
    sum = add(sum, squares_of_pairs(load_words(rest)));
  }
  return total_of_32(sum);
}

#else

MNQ_INNER int64_t sum_of_squares(const int8_t* q, int64_t columns) {
  int32_t sum = 0;
  for (int64_t j = 0; j < columns; ++j) sum += q[j] * q[j];
  return sum;
}

#endif

// Lines 1 and 2 for 1 to 32 rows shorter than 2^21: n < 2^35.
//
// 2^30 / sqrt(n) in doubles is off by less than 2^-52 of itself, which takes it past an integer f
// only where f * f * n is within 2^9 of 2^60. Where they are equal, n is a power of 4 and all is
// exact. By enumeration, four other n below 2^35 come that near, and there the doubles are right as
// well (tests/ops/test_l2_normalize.py has them).
MNQ_INNER void find_norm_factors(const int8_t* q, int64_t rows, int64_t columns,
                                 int32_t* factors) {
  constexpr int64_t piece = 1 << 16;
  double squares[norm_batch] = {}, quotients[norm_batch];
  for (int64_t i = 0; i < rows; ++i) {
    int64_t n = 0;
    for (int64_t j = 0; j < columns; j += piece) {
      n += sum_of_squares(q + i * columns + j, columns - j < piece ? columns - j : piece);
    }
    squares[i] = static_cast<double>(n);
  }
  for (int i = 0; i < norm_batch; i += double_lanes) {
    const Doubles n = larger(load(squares + i), repeat(1.0));
    store(quotients + i, repeat(0x1p30) / square_root(n));
  }
  for (int i = 0; i < norm_batch; ++i) factors[i] = static_cast<int32_t>(quotients[i]);
}

// Lines 3 and 4.
template <bool clamped, class Y>
MNQ_INNER void unit_rows(const int8_t* q, Y* y, int64_t rows, const int32_t* factors,
                         const RequantizeJob& job) {
  const int64_t columns = job.columns;
  const Factor<Form::high_word> scale(job.scale, 0);
  const Lanes lo = repeat(job.lo), hi = repeat(job.hi);
  for (int64_t i = 0; i < rows; ++i, q += columns, y += columns) {
    const Lanes factor = repeat(factors[i]);
    const auto codes = [&](const int8_t* from) {
      const Lanes x = scale.apply(multiply(widen(from), factor));
      return clamped ? smaller(larger(x, lo), hi) : x;
    };
    int64_t j = 0;
    for (; j + lanes <= columns; j += lanes) store(y + j, codes(q + j));
    if (j < columns) {
      int8_t rest[lanes] = {};
      std::memcpy(rest, q + j, columns - j);
      store_part(y + j, codes(rest), static_cast<int>(columns - j));
    }
  }
}

// The same by the definition, for any m and e.
template <class Y>
static void unit_rows_exactly(const int8_t* q, Y* y, int64_t rows, const int32_t* factors,
                              const RequantizeJob& job) {
  for (int64_t i = 0; i < rows; ++i, q += job.columns, y += job.columns) {
    for (int64_t j = 0; j < job.columns; ++j) {
      const int64_t x = rescale(q[j] * factors[i], job.scale.m[0], job.scale.e[0]);
      y[j] = static_cast<Y>(clamp(x, job.lo, job.hi));
    }
  }
}

template <class Y>
static void l2_normalize_as(const RequantizeJob& job) {
  const int8_t* q = static_cast<const int8_t*>(job.z);
  Y* y = static_cast<Y*>(job.y);
  for (int64_t left = job.rows; left > 0; left -= norm_batch) {
    const int64_t rows = left < norm_batch ? left : norm_batch;
    int32_t factors[norm_batch];
    find_norm_factors(q, rows, job.columns, factors);
    if (job.scale.form != Form::high_word) {
      unit_rows_exactly(q, y, rows, factors, job);
    } else if (is_clamped<Y>(job)) {
      unit_rows<true>(q, y, rows, factors, job);
    } else {
      unit_rows<false>(q, y, rows, factors, job);
    }
    q += norm_batch * job.columns;
    y += norm_batch * job.columns;
  }
}

// `Path::l2_normalize`.
static void l2_normalize(const RequantizeJob& job) {
  if (job.y_type == Type::int8) {
    l2_normalize_as<int8_t>(job);
  } else {
    l2_normalize_as<int16_t>(job);
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
