// int32 lanes: 16 with AVX-512, 8 with AVX2, 1 in portable C++. Only what requantization needs.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define MNQ_INNER static inline __attribute__((always_inline, unused))
#define MNQ_MEMBER inline __attribute__((always_inline))

namespace mnq {
namespace MNQ_PATH {

#if defined(__AVX512F__)

constexpr int lanes = 16;
using Lanes = __m512i;

MNQ_INNER Lanes repeat(int32_t x) { return _mm512_set1_epi32(x); }
MNQ_INNER Lanes load(const int32_t* p) { return _mm512_loadu_si512(p); }
MNQ_INNER Lanes load(const int16_t* p) {
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MNQ_INNER void store(int32_t* p, Lanes x) { _mm512_storeu_si512(p, x); }
MNQ_INNER void store(int16_t* p, Lanes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(x));
}
MNQ_INNER void store(int8_t* p, Lanes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x));
}
// The first n lanes only.
MNQ_INNER Lanes load_part(const int16_t* p, int n) {
  return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16((1u << n) - 1, p));
}
MNQ_INNER void store_part(int32_t* p, Lanes x, int n) {
  _mm512_mask_storeu_epi32(p, (1u << n) - 1, x);
}
MNQ_INNER void store_part(int16_t* p, Lanes x, int n) {
  _mm256_mask_storeu_epi16(p, (1u << n) - 1, _mm512_cvtsepi32_epi16(x));
}
MNQ_INNER void store_part(int8_t* p, Lanes x, int n) {
  _mm_mask_storeu_epi8(p, (1u << n) - 1, _mm512_cvtsepi32_epi8(x));
}
MNQ_INNER Lanes add(Lanes a, Lanes b) { return _mm512_add_epi32(a, b); }
MNQ_INNER Lanes subtract(Lanes a, Lanes b) { return _mm512_sub_epi32(a, b); }
MNQ_INNER Lanes larger(Lanes a, Lanes b) { return _mm512_max_epi32(a, b); }
MNQ_INNER Lanes smaller(Lanes a, Lanes b) { return _mm512_min_epi32(a, b); }
MNQ_INNER Lanes shift_left(Lanes x, Lanes k) { return _mm512_sllv_epi32(x, k); }
MNQ_INNER Lanes shift_right(Lanes x, Lanes k) { return _mm512_srav_epi32(x, k); }
MNQ_INNER Lanes odd(Lanes x) { return _mm512_srli_epi64(x, 32); }  // odd lanes moved to even ones

// floor(a * b / 2^32). Lanes move by shuffles: shifts and products share the other port.
MNQ_INNER Lanes high_word(Lanes a, Lanes b) {
  const __m512i odd_a = _mm512_shuffle_epi32(a, _MM_PERM_DDBB);
  const __m512i even = _mm512_mul_epi32(a, b), other = _mm512_mul_epi32(odd_a, odd(b));
  return _mm512_mask_shuffle_epi32(other, 0x5555, even, _MM_PERM_DDBB);
}

// m and e for products of 64 bits: of the even lanes and of the odd ones.
struct WideFactor {
  Lanes m[2], e[2], half[2];

  WideFactor() = default;
  MNQ_MEMBER WideFactor(Lanes all_m, Lanes all_e) {
    m[0] = all_m;
    m[1] = odd(all_m);
    e[0] = _mm512_and_si512(all_e, _mm512_set1_epi64(0xffffffff));
    e[1] = odd(all_e);
    for (int i = 0; i < 2; ++i) {
      half[i] = _mm512_srli_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(1), e[i]), 1);
    }
  }
};

// round_half_up(z * m / 2^e) where that fits 32 bits.
MNQ_INNER Lanes narrow_rescale(Lanes z, const WideFactor& f) {
  const __m512i p0 = _mm512_add_epi64(_mm512_mul_epi32(z, f.m[0]), f.half[0]);
  const __m512i odd_z = _mm512_shuffle_epi32(z, _MM_PERM_DDBB);
  const __m512i p1 = _mm512_add_epi64(_mm512_mul_epi32(odd_z, f.m[1]), f.half[1]);
  const __m512i y0 = _mm512_srav_epi64(p0, f.e[0]), y1 = _mm512_srav_epi64(p1, f.e[1]);
  return _mm512_mask_shuffle_epi32(y0, 0xAAAA, y1, _MM_PERM_CCAA);
}

#elif defined(__AVX2__)

constexpr int lanes = 8;
using Lanes = __m256i;

MNQ_INNER Lanes repeat(int32_t x) { return _mm256_set1_epi32(x); }
MNQ_INNER Lanes load(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
MNQ_INNER Lanes load(const int16_t* p) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MNQ_INNER void store(int32_t* p, Lanes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}
MNQ_INNER __m128i saturate16(Lanes x) {
  return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
MNQ_INNER void store(int16_t* p, Lanes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), saturate16(x));
}
MNQ_INNER void store(int8_t* p, Lanes x) {
  const __m128i words = saturate16(x);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
// The first n lanes only.
MNQ_INNER Lanes load_part(const int16_t* p, int n) {
  int16_t whole[lanes] = {};
  std::memcpy(whole, p, n * sizeof *p);
  return load(whole);
}
template <class T>
MNQ_INNER void store_part(T* p, Lanes x, int n) {
  T whole[lanes];
  store(whole, x);
  std::memcpy(p, whole, n * sizeof *p);
}
MNQ_INNER Lanes add(Lanes a, Lanes b) { return _mm256_add_epi32(a, b); }
MNQ_INNER Lanes subtract(Lanes a, Lanes b) { return _mm256_sub_epi32(a, b); }
MNQ_INNER Lanes larger(Lanes a, Lanes b) { return _mm256_max_epi32(a, b); }
MNQ_INNER Lanes smaller(Lanes a, Lanes b) { return _mm256_min_epi32(a, b); }
MNQ_INNER Lanes shift_left(Lanes x, Lanes k) { return _mm256_sllv_epi32(x, k); }
MNQ_INNER Lanes shift_right(Lanes x, Lanes k) { return _mm256_srav_epi32(x, k); }
MNQ_INNER Lanes odd(Lanes x) { return _mm256_srli_epi64(x, 32); }

MNQ_INNER Lanes high_word(Lanes a, Lanes b) {
  const __m256i even = _mm256_mul_epi32(a, b), other = _mm256_mul_epi32(odd(a), odd(b));
  return _mm256_blend_epi32(odd(even), other, 0xAA);
}

// AVX2 shifts 64-bit lanes without sign only: with 2^63 added the sign is gone.
MNQ_INNER __m256i shift_right_64(__m256i x, __m256i k) {
  const __m256i top = _mm256_set1_epi64x(INT64_MIN);
  return _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(x, top), k),
                          _mm256_srlv_epi64(top, k));
}

struct WideFactor {
  Lanes m[2], e[2], half[2];

  WideFactor() = default;
  MNQ_MEMBER WideFactor(Lanes all_m, Lanes all_e) {
    m[0] = all_m;
    m[1] = odd(all_m);
    e[0] = _mm256_and_si256(all_e, _mm256_set1_epi64x(0xffffffff));
    e[1] = odd(all_e);
    for (int i = 0; i < 2; ++i) {
      half[i] = _mm256_srli_epi64(_mm256_sllv_epi64(_mm256_set1_epi64x(1), e[i]), 1);
    }
  }
};

MNQ_INNER Lanes narrow_rescale(Lanes z, const WideFactor& f) {
  const __m256i p0 = _mm256_add_epi64(_mm256_mul_epi32(z, f.m[0]), f.half[0]);
  const __m256i p1 = _mm256_add_epi64(_mm256_mul_epi32(odd(z), f.m[1]), f.half[1]);
  const __m256i y0 = shift_right_64(p0, f.e[0]), y1 = shift_right_64(p1, f.e[1]);
  return _mm256_blend_epi32(y0, _mm256_slli_epi64(y1, 32), 0xAA);
}

#else

constexpr int lanes = 1;
using Lanes = int32_t;

MNQ_INNER Lanes repeat(int32_t x) { return x; }
MNQ_INNER Lanes load(const int32_t* p) { return *p; }
MNQ_INNER Lanes load(const int16_t* p) { return *p; }
MNQ_INNER void store(int32_t* p, Lanes x) { *p = x; }
MNQ_INNER void store(int16_t* p, Lanes x) { *p = static_cast<int16_t>(x); }
MNQ_INNER void store(int8_t* p, Lanes x) { *p = static_cast<int8_t>(x); }
MNQ_INNER Lanes load_part(const int16_t* p, int) { return *p; }
template <class T>
MNQ_INNER void store_part(T* p, Lanes x, int) {
  store(p, x);
}
MNQ_INNER Lanes add(Lanes a, Lanes b) {  // wraps, as vectors do
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
MNQ_INNER Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
MNQ_INNER Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }
MNQ_INNER Lanes subtract(Lanes a, Lanes b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}
MNQ_INNER Lanes shift_left(Lanes x, Lanes k) { return x << k; }
MNQ_INNER Lanes shift_right(Lanes x, Lanes k) { return x >> k; }
MNQ_INNER Lanes high_word(Lanes a, Lanes b) {
  return static_cast<int32_t>((int64_t{a} * b) >> 32);
}
struct WideFactor {
  int64_t m, e, half;

  WideFactor() = default;
  MNQ_MEMBER WideFactor(Lanes all_m, Lanes all_e)
      : m(all_m), e(all_e), half(int64_t{1} << (all_e - 1)) {}
};

MNQ_INNER Lanes narrow_rescale(Lanes z, const WideFactor& f) {
  return static_cast<int32_t>((z * f.m + f.half) >> f.e);
}

#endif

}  // namespace MNQ_PATH
}  // namespace mnq
