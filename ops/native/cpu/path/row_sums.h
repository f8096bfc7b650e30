// Exact sums of rows of 8- or 16-bit codes and of their squares.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/native/cpu/path/vector.h"

namespace mnq {
namespace MNQ_PATH {

// 16-bit words, and sums of them in 32-bit lanes (two words each) and 64-bit lanes.
#if defined(__AVX512F__)

constexpr int word_lanes = 32;
using Words = __m512i;
MNQ_INNER Words load_words(const int16_t* p) { return _mm512_loadu_si512(p); }
MNQ_INNER Words load_words(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MNQ_INNER Lanes squares_of_pairs(Words x) { return _mm512_madd_epi16(x, x); }  // up to 2^31
MNQ_INNER Lanes add_pairs(Lanes sum, Words x) {
  return _mm512_dpwssd_epi32(sum, x, _mm512_set1_epi16(1));
}
// 64-bit lanes: sum + the unsigned 32-bit lanes of x, two each.
MNQ_INNER Lanes add_unsigned(Lanes sum, Lanes x) {
  const __m512i low = _mm512_and_si512(x, _mm512_set1_epi64(0xffffffff));
  return _mm512_add_epi64(sum, _mm512_add_epi64(low, odd(x)));
}
MNQ_INNER int64_t total_of_32(Lanes x) {
  return _mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(x)),
                       _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(x, 1))));
}
MNQ_INNER int64_t total_of_64(Lanes x) { return _mm512_reduce_add_epi64(x); }

#elif defined(__AVX2__)

constexpr int word_lanes = 16;
using Words = __m256i;
MNQ_INNER Words load_words(const int16_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
MNQ_INNER Words load_words(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MNQ_INNER Lanes squares_of_pairs(Words x) { return _mm256_madd_epi16(x, x); }
MNQ_INNER Lanes add_pairs(Lanes sum, Words x) {
  return add(sum, _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
}
MNQ_INNER Lanes add_unsigned(Lanes sum, Lanes x) {
  const __m256i low = _mm256_and_si256(x, _mm256_set1_epi64x(0xffffffff));
  return _mm256_add_epi64(sum, _mm256_add_epi64(low, odd(x)));
}
MNQ_INNER int64_t total_of_64(Lanes x) {
  int64_t parts[4];
  std::memcpy(parts, &x, sizeof parts);
  return parts[0] + parts[1] + parts[2] + parts[3];
}
MNQ_INNER int64_t total_of_32(Lanes x) {
  return total_of_64(_mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(x)),
                                      _mm256_cvtepi32_epi64(_mm256_extracti128_si256(x, 1))));
}

#endif

#if defined(__AVX2__)

// abs(sum) < 2^36 and squares < 2^51 for rows shorter than 2^21.
template <class Q>
MNQ_INNER void add_row(const Q* q, int64_t columns, double& sum, double& squares) {
  constexpr int64_t piece = int64_t{word_lanes} << 14;  // 2^14 pairs fit an int32 lane
  Lanes square_lanes = repeat(0);
  int64_t total = 0;
  for (int64_t from = 0; from < columns; from += piece) {
    const int64_t to = columns - from < piece ? columns : from + piece;
    Lanes sum_lanes = repeat(0);
    int64_t j = from;
    for (; j + word_lanes <= to; j += word_lanes) {
      const Words x = load_words(q + j);
      sum_lanes = add_pairs(sum_lanes, x);
      square_lanes = add_unsigned(square_lanes, squares_of_pairs(x));
    }
    if (j < to) {
      Q rest[word_lanes] = {};
      std::memcpy(rest, q + j, (to - j) * sizeof(Q));
      const Words x = load_words(rest);
      sum_lanes = add_pairs(sum_lanes, x);
      square_lanes = add_unsigned(square_lanes, squares_of_pairs(x));
    }
    total += total_of_32(sum_lanes);
  }
  sum = static_cast<double>(total);
  squares = static_cast<double>(total_of_64(square_lanes));
}

#else

template <class Q>
MNQ_INNER void add_row(const Q* q, int64_t columns, double& sum, double& squares) {
  int64_t total = 0, total_of_squares = 0;
  for (int64_t j = 0; j < columns; ++j) {
    const int32_t x = q[j];
    total += x;
    total_of_squares += x * x;
  }
  sum = static_cast<double>(total);
  squares = static_cast<double>(total_of_squares);
}

#endif

}  // namespace MNQ_PATH
}  // namespace mnq
