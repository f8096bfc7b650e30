# The C++ compiler. Sets `x86`, or `lacking` if there is no compiler that can do it.
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  set(lacking "expected a C++ compiler, found none; install one (Debian: apt install g++)")
  return()
endif()
enable_language(CXX)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)  # -O3
endif()

include(CheckCXXSourceCompiles)
check_cxx_source_compiles("
  #if !defined(__x86_64__)
  #error
  #endif
  int main() {}" x86)
if(x86)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag("-mavx512vnni -mavx512vbmi -mamx-tile -mamx-int8" knows_amx)
  if(NOT knows_amx)
    set(lacking "expected gcc 11, clang 12 or newer, found \
${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}; install one")
  endif()
endif()
