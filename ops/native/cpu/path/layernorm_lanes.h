// Lanes that only LayerNorm and L2Normalize need: doubles for what is computed once per row, floats
// beside the int32 lanes of vector.h. Operators + - * / on them are the compiler's.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/native/cpu/path/vector.h"

namespace mnq {
namespace MNQ_PATH {

#if defined(__AVX512F__)

using Doubles = __m512d;
using Floats = __m512;
constexpr int double_lanes = 8;

MNQ_INNER Doubles repeat(double x) { return _mm512_set1_pd(x); }
MNQ_INNER Doubles load(const double* p) { return _mm512_loadu_pd(p); }
MNQ_INNER void store(double* p, Doubles x) { _mm512_storeu_pd(p, x); }
MNQ_INNER Doubles larger(Doubles a, Doubles b) { return _mm512_max_pd(a, b); }
MNQ_INNER Doubles square_root(Doubles x) { return _mm512_sqrt_pd(x); }
MNQ_INNER Doubles floor_of(Doubles x) {
  return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
MNQ_INNER Doubles nearest_even(Doubles x) {
  return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MNQ_INNER Doubles one_less_if_above(Doubles x, Doubles a, Doubles b) {  // a > b ? x - 1 : x
  const __mmask8 above = _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ);
  return _mm512_mask_sub_pd(x, above, x, _mm512_set1_pd(1));
}

MNQ_INNER bool all_equal(Doubles a, Doubles b) {
  return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ) == 0;
}

MNQ_INNER Floats repeat(float x) { return _mm512_set1_ps(x); }
MNQ_INNER Floats load(const float* p) { return _mm512_loadu_ps(p); }
MNQ_INNER Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
MNQ_INNER Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
MNQ_INNER Floats floats(Lanes x) { return _mm512_cvtepi32_ps(x); }
MNQ_INNER Lanes integers(Floats x) { return _mm512_cvttps_epi32(x); }
MNQ_INNER Lanes bits_of(Floats x) { return _mm512_castps_si512(x); }
MNQ_INNER Floats keep_bits(Floats x, Lanes mask) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), mask));
}
MNQ_INNER Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

MNQ_INNER Lanes widen(const int8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MNQ_INNER Lanes multiply(Lanes a, Lanes b) { return _mm512_mullo_epi32(a, b); }
template <int k>
MNQ_INNER Lanes shift_right(Lanes x) {
  return _mm512_srai_epi32(x, k);
}
// floor(a * m / 2^32), where odd_m holds the odd lanes of m in its even lanes.
MNQ_INNER Lanes high_word(Lanes a, Lanes m, Lanes odd_m) {
  const __m512i even = _mm512_mul_epi32(a, m), other = _mm512_mul_epi32(odd(a), odd_m);
  return _mm512_castps_si512(
      _mm512_mask_movehdup_ps(_mm512_castsi512_ps(other), 0x5555, _mm512_castsi512_ps(even)));
}

// Four times `lanes` codes, saturated. The packs interleave the four by blocks of 128 bits.
MNQ_INNER void store_four(int8_t* p, const Lanes* x) {
  const __m512i words =
      _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, words));
}

// Lanes in doubt: so far, and those where the low 16 bits of x or of y are below a bound of theirs
// (below 2^16). Kept as the words that are not.
using Doubt = __mmask32;
constexpr int doubt_bits = 2;  // of a lane in bits_of
MNQ_INNER Doubt no_doubt() { return 0xffffffff; }
MNQ_INNER Doubt doubts(Doubt so_far, Lanes x, Lanes x_bound, Lanes y, Lanes y_bound) {
  return _mm512_mask_cmpge_epu16_mask(_mm512_mask_cmpge_epu16_mask(so_far, x, x_bound), y,
                                      y_bound);
}
MNQ_INNER bool any(Doubt a) { return a != 0xffffffff; }
MNQ_INNER uint32_t bits_of(Doubt a) { return ~a; }

#elif defined(__AVX2__)

using Doubles = __m256d;
using Floats = __m256;
constexpr int double_lanes = 4;

MNQ_INNER Doubles repeat(double x) { return _mm256_set1_pd(x); }
MNQ_INNER Doubles load(const double* p) { return _mm256_loadu_pd(p); }
MNQ_INNER void store(double* p, Doubles x) { _mm256_storeu_pd(p, x); }
MNQ_INNER Doubles larger(Doubles a, Doubles b) { return _mm256_max_pd(a, b); }
MNQ_INNER Doubles square_root(Doubles x) { return _mm256_sqrt_pd(x); }
MNQ_INNER Doubles floor_of(Doubles x) { return _mm256_floor_pd(x); }
MNQ_INNER Doubles nearest_even(Doubles x) {
  return _mm256_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MNQ_INNER Doubles one_less_if_above(Doubles x, Doubles a, Doubles b) {
  const __m256d above = _mm256_cmp_pd(a, b, _CMP_GT_OQ);
  return _mm256_sub_pd(x, _mm256_and_pd(above, _mm256_set1_pd(1)));
}

MNQ_INNER bool all_equal(Doubles a, Doubles b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_NEQ_UQ)) == 0;
}

MNQ_INNER Floats repeat(float x) { return _mm256_set1_ps(x); }
MNQ_INNER Floats load(const float* p) { return _mm256_loadu_ps(p); }
MNQ_INNER Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
MNQ_INNER Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
MNQ_INNER Floats floats(Lanes x) { return _mm256_cvtepi32_ps(x); }
MNQ_INNER Lanes integers(Floats x) { return _mm256_cvttps_epi32(x); }
MNQ_INNER Lanes bits_of(Floats x) { return _mm256_castps_si256(x); }
MNQ_INNER Floats keep_bits(Floats x, Lanes mask) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(mask));
}
MNQ_INNER Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

MNQ_INNER Lanes widen(const int8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
MNQ_INNER Lanes multiply(Lanes a, Lanes b) { return _mm256_mullo_epi32(a, b); }
template <int k>
MNQ_INNER Lanes shift_right(Lanes x) {
  return _mm256_srai_epi32(x, k);
}
MNQ_INNER Lanes high_word(Lanes a, Lanes m, Lanes odd_m) {
  const __m256i even = _mm256_mul_epi32(a, m), other = _mm256_mul_epi32(odd(a), odd_m);
  return _mm256_blend_epi32(odd(even), other, 0xAA);
}

MNQ_INNER void store_four(int8_t* p, const Lanes* x) {
  const __m256i words =
      _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(words, order));
}

using Doubt = __m256i;
constexpr int doubt_bits = 1;
MNQ_INNER Doubt no_doubt() { return _mm256_setzero_si256(); }
MNQ_INNER Doubt doubts(Doubt so_far, Lanes x, Lanes x_bound, Lanes y, Lanes y_bound) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i of_x = _mm256_cmpgt_epi32(x_bound, _mm256_and_si256(x, low));
  const __m256i of_y = _mm256_cmpgt_epi32(y_bound, _mm256_and_si256(y, low));
  return _mm256_or_si256(so_far, _mm256_or_si256(of_x, of_y));
}
MNQ_INNER bool any(Doubt a) { return !_mm256_testz_si256(a, a); }
MNQ_INNER uint32_t bits_of(Doubt a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a)); }

#else

using Doubles = double;
using Floats = float;
constexpr int double_lanes = 1;

MNQ_INNER Doubles repeat(double x) { return x; }
MNQ_INNER Doubles load(const double* p) { return *p; }
MNQ_INNER void store(double* p, Doubles x) { *p = x; }
MNQ_INNER Doubles larger(Doubles a, Doubles b) { return a > b ? a : b; }
MNQ_INNER Doubles square_root(Doubles x) { return __builtin_sqrt(x); }
// Of what is below 2^62 here; numbers that doubles hold exactly have no fraction from 2^53 on.
MNQ_INNER Doubles floor_of(Doubles x) {
  const double whole = static_cast<double>(static_cast<int64_t>(x));
  return whole > x ? whole - 1 : whole;
}
MNQ_INNER Doubles nearest_even(Doubles x) {  // of numbers below 2^51
  const double magic = 6755399441055744.0;   // 1.5 * 2^52: what is added to it loses its fraction
  return x + magic - magic;
}
MNQ_INNER Doubles one_less_if_above(Doubles x, Doubles a, Doubles b) { return a > b ? x - 1 : x; }

MNQ_INNER bool all_equal(Doubles a, Doubles b) { return a == b; }

MNQ_INNER Floats repeat(float x) { return x; }
MNQ_INNER Floats load(const float* p) { return *p; }
MNQ_INNER Floats larger(Floats a, Floats b) { return a > b ? a : b; }
MNQ_INNER Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
MNQ_INNER Floats floats(Lanes x) { return static_cast<float>(x); }
MNQ_INNER Lanes integers(Floats x) { return static_cast<int32_t>(x); }
MNQ_INNER Lanes bits_of(Floats x) {
  Lanes bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
MNQ_INNER Floats keep_bits(Floats x, Lanes mask) {
  const Lanes bits = bits_of(x) & mask;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
MNQ_INNER Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

MNQ_INNER Lanes widen(const int8_t* p) { return *p; }
MNQ_INNER Lanes multiply(Lanes a, Lanes b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}
template <int k>
MNQ_INNER Lanes shift_right(Lanes x) {
  return x >> k;
}
MNQ_INNER Lanes high_word(Lanes a, Lanes m, Lanes) { return high_word(a, m); }

MNQ_INNER void store_four(int8_t* p, const Lanes* x) {
  for (int i = 0; i < 4; ++i) store(p + i, x[i]);
}

using Doubt = uint32_t;
constexpr int doubt_bits = 1;
MNQ_INNER Doubt no_doubt() { return 0; }
MNQ_INNER Doubt doubts(Doubt so_far, Lanes x, Lanes x_bound, Lanes y, Lanes y_bound) {
  return so_far | ((x & 0xffff) < x_bound) | ((y & 0xffff) < y_bound);
}
MNQ_INNER bool any(Doubt a) { return a != 0; }
MNQ_INNER uint32_t bits_of(Doubt a) { return a; }

#endif

MNQ_INNER void store_four(int16_t* p, const Lanes* x) {
  for (int i = 0; i < 4; ++i) store(p + i * lanes, x[i]);
}

MNQ_INNER Lanes widen(const int16_t* p) { return load(p); }

}  // namespace MNQ_PATH
}  // namespace mnq
