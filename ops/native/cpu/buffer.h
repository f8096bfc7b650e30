// Aligned memory of a kernel: packed weights, tables, constants filled up to whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace mnq {

constexpr int64_t cache_line = 64;

inline int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// `size` elements, zero at first, on a cache line's boundary.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) {
    const size_t bytes = round_up(size * static_cast<int64_t>(sizeof(T)) + 1, cache_line);
    memory_.reset(static_cast<T*>(std::aligned_alloc(cache_line, bytes)));
    if (!memory_) throw std::bad_alloc();
    std::fill_n(reinterpret_cast<char*>(memory_.get()), bytes, 0);
  }
  T* data() const { return memory_.get(); }
  T& operator[](int64_t i) const { return memory_.get()[i]; }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
};

}  // namespace mnq
