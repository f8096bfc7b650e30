// Integer arithmetic of the operators' scalar cores, for CPU and CUDA alike: what
// ops/integer.py says in Python. Everything is forced inline: files compiled for different
// instruction sets include this, and a shared copy could hold instructions that a CPU lacks.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MNQ_CORE __host__ __device__ static __forceinline__
#else
#define MNQ_CORE static inline __attribute__((always_inline, unused))
#endif

namespace mnq {

MNQ_CORE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
MNQ_CORE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
MNQ_CORE int64_t clamp(int64_t x, int64_t lo, int64_t hi) { return least(most(x, lo), hi); }

// 2^k for 0 <= k <= 62.
MNQ_CORE int64_t power_of_two(int64_t k) { return int64_t{1} << k; }

// x * 2^k without the undefined shift of a negative number; the product fits.
MNQ_CORE int64_t shift_left(int64_t x, int64_t k) { return x * power_of_two(k); }

// Quotient toward minus infinity; divisor != 0.
MNQ_CORE int64_t floor_divide(int64_t x, int64_t divisor) {
  const int64_t q = x / divisor, r = x % divisor;
  return q - (r != 0 && (r < 0) != (divisor < 0));
}

// x * 2^k for a k of either sign, toward minus infinity if k < 0.
MNQ_CORE int64_t shift(int64_t x, int64_t k) { return k >= 0 ? shift_left(x, k) : x >> -k; }

// x / divisor to the nearest integer, ties to even; divisor > 0.
MNQ_CORE int64_t round_half_even_divide(int64_t x, int64_t divisor) {
  const int64_t q = floor_divide(x, divisor), r = x - q * divisor;
  const int64_t rest = divisor - r;  // compares r with divisor / 2 without doubling it
  return q + (r > rest || (r == rest && (q & 1) != 0));
}

// Number of bits of x >= 0; 0 for 0.
MNQ_CORE int64_t bit_length(int64_t x) {
#if defined(__CUDA_ARCH__)
  return 64 - __clzll(x);
#else
  return x == 0 ? 0 : 64 - __builtin_clzll(static_cast<unsigned long long>(x));
#endif
}

// floor(sqrt(x)) for 0 <= x < 2^62: bit by bit, the plainest exact form.
MNQ_CORE int64_t isqrt(int64_t x) {
  int64_t root = 0, bit = power_of_two(x == 0 ? 0 : (bit_length(x) - 1) / 2 * 2);
  while (bit != 0) {
    if (x >= root + bit) {
      x -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
    bit >>= 2;
  }
  return root;
}

}  // namespace mnq
