// 8-bit codes through a table of 256, and the maximum of a row of them.
#pragma once

#include <cstdint>

#include "ops/native/cpu/path/vector.h"

namespace mnq {
namespace MNQ_PATH {

#if defined(__AVX512VBMI__)

MNQ_INNER __mmask64 first_bytes(int64_t n) {
  return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
}

// 256 bytes in registers: the half for indices with a clear top bit, and the other.
struct ByteTable {
  __m512i parts[4];

  ByteTable(const void* clear, const void* set) {
    const void* halves[2] = {clear, set};
    for (int i = 0; i < 4; ++i) {
      parts[i] = _mm512_loadu_si512(static_cast<const char*>(halves[i / 2]) + 64 * (i % 2));
    }
  }
  MNQ_MEMBER __m512i at(__m512i index) const {
    const __m512i clear = _mm512_permutex2var_epi8(parts[0], index, parts[1]);
    const __m512i set = _mm512_permutex2var_epi8(parts[2], index, parts[3]);
    return _mm512_mask_mov_epi8(clear, _mm512_movepi8_mask(index), set);
  }
};

static void look_up(const int8_t* table, const int8_t* x, int8_t* y, int64_t n) {
  const ByteTable bytes(table + 128, table);  // the top bit of a negative code is set
  int64_t i = 0;
  for (; i + 128 <= n; i += 128) {
    const __m512i a = bytes.at(_mm512_loadu_si512(x + i));
    const __m512i b = bytes.at(_mm512_loadu_si512(x + i + 64));
    _mm512_storeu_si512(y + i, a);
    _mm512_storeu_si512(y + i + 64, b);
  }
  for (; i < n; i += 64) {  // masked: bytes behind the end may be another task's
    const __mmask64 valid = first_bytes(n - i);
    const __m512i a = bytes.at(_mm512_maskz_loadu_epi8(valid, x + i));
    _mm512_mask_storeu_epi8(y + i, valid, a);
  }
}

// In place, rows of n codes that are `stride` apart: the table is read once.
static void look_up_rows(const int8_t* table, int8_t* y, int64_t stride, int64_t rows, int64_t n) {
  const ByteTable bytes(table + 128, table);
  for (int64_t j = 0; j < n; j += 64) {
    const __mmask64 valid = first_bytes(n - j);
    int8_t* at = y + j;
    for (int64_t row = 0; row < rows; ++row, at += stride) {
      _mm512_mask_storeu_epi8(at, valid, bytes.at(_mm512_maskz_loadu_epi8(valid, at)));
    }
  }
}

static int row_max(const int8_t* x, int64_t n) {
  __m512i top = _mm512_set1_epi8(-128);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) top = _mm512_max_epi8(top, _mm512_loadu_si512(x + i));
  if (i < n) {
    const __mmask64 valid = first_bytes(n - i);
    top = _mm512_mask_max_epi8(top, valid, top, _mm512_maskz_loadu_epi8(valid, x + i));
  }
  const __m256i half =
      _mm256_max_epi8(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
  __m128i rest = _mm_max_epi8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  // phminposuw finds the least of eight unsigned words: of bytes turned around, in pairs.
  rest = _mm_xor_si128(rest, _mm_set1_epi8(0x7f));
  rest = _mm_min_epu8(rest, _mm_srli_epi16(rest, 8));
  return 127 - (_mm_cvtsi128_si32(_mm_minpos_epu16(rest)) & 0xff);
}

#elif defined(__AVX2__)

// vpshufb looks up 16 bytes and gives 0 for an index with its top bit set: the table is the sum of
// 16 parts, each reached by the indices that it holds.
static void look_up(const int8_t* table, const int8_t* x, int8_t* y, int64_t n) {
  const __m256i all_128 = _mm256_set1_epi8(-128), step = _mm256_set1_epi8(16);
  const __m256i beyond = _mm256_set1_epi8(0x70);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256i index =
        _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)), all_128);
    __m256i sum = _mm256_setzero_si256();
    for (int part = 0; part < 16; ++part) {
      const __m256i values = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * part)));
      // 0..15 become 0x70..0x7f, all others 0x80 or more.
      sum = _mm256_or_si256(sum, _mm256_shuffle_epi8(values, _mm256_adds_epu8(index, beyond)));
      index = _mm256_sub_epi8(index, step);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), sum);
  }
  for (; i < n; ++i) y[i] = table[x[i] + 128];
}

static int row_max(const int8_t* x, int64_t n) {
  __m256i top = _mm256_set1_epi8(-128);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    top = _mm256_max_epi8(top, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)));
  }
  __m128i rest = _mm_max_epi8(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  rest = _mm_xor_si128(rest, _mm_set1_epi8(0x7f));
  rest = _mm_min_epu8(rest, _mm_srli_epi16(rest, 8));
  int most = 127 - (_mm_cvtsi128_si32(_mm_minpos_epu16(rest)) & 0xff);
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

#else

static void look_up(const int8_t* table, const int8_t* x, int8_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = table[x[i] + 128];
}

static int row_max(const int8_t* x, int64_t n) {
  int most = x[0];
  for (int64_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

#endif

#if !defined(__AVX512VBMI__)
// In place, rows of n codes that are `stride` apart.
static void look_up_rows(const int8_t* table, int8_t* y, int64_t stride, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row, y += stride) look_up(table, y, y, n);
}
#endif

}  // namespace MNQ_PATH
}  // namespace mnq
