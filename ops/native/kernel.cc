#include "ops/native/kernel.h"

#include <algorithm>
#include <cstring>

namespace mnq {

size_t size_of(Type type) {
  switch (type) {
    case Type::int8:
    case Type::uint8:
      return 1;
    case Type::int16:
      return 2;
    case Type::int32:
      return 4;
    case Type::int64:
      return 8;
  }
  return 0;
}

const char* name_of(Type type) {
  switch (type) {
    case Type::int8:
      return "int8";
    case Type::uint8:
      return "uint8";
    case Type::int16:
      return "int16";
    case Type::int32:
      return "int32";
    case Type::int64:
      return "int64";
  }
  return "?";
}

Type type_of(int64_t number) {
  for (Type type : {Type::uint8, Type::int8, Type::int16, Type::int32, Type::int64}) {
    if (static_cast<int64_t>(type) == number) return type;
  }
  throw Refusal("expected an element type of uint8, int8, int16, int32 or int64, found number " +
                std::to_string(number) + " of ONNX");
}

std::string text_of(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += shape[i] < 0 ? "?" : std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

int64_t count(const Shape& shape) {
  int64_t product = 1;
  for (int64_t n : shape) product *= n;
  return product;
}

const Tensor& Node::operator[](const char* name) const {
  for (const Tensor& input : inputs) {
    if (std::strcmp(input.name, name) == 0) return input;
  }
  throw std::out_of_range(name);
}

const Tensor& Node::constant(const char* name, Type type) const {
  const Tensor& input = (*this)[name];
  if (input.data == nullptr) {
    throw Refusal(std::string("input '") + name +
                  "': expected a constant (an initializer), found an activation");
  }
  if (input.type != type) {
    throw Refusal(std::string("input '") + name + "': expected " + name_of(type) + ", found " +
                  name_of(input.type));
  }
  return input;
}

int64_t Node::scalar(const char* name, Type type) const {
  const Tensor& input = constant(name, type);
  if (count(input.shape) != 1) {
    throw Refusal(std::string("input '") + name + "': expected one number, found shape " +
                  text_of(input.shape));
  }
  return type == Type::int64 ? *input.as<int64_t>() : *input.as<int32_t>();
}

int64_t Node::scalar_within(const char* name, int64_t lo, int64_t hi) const {
  const int64_t value = scalar(name);
  if (value >= lo && value <= hi) return value;
  throw Refusal(std::string("input '") + name + "': expected a number from " +
                std::to_string(lo) + " to " + std::to_string(hi) + ", found " +
                std::to_string(value));
}

const Tensor& Node::vector(const char* name, Type type, int64_t length) const {
  const Tensor& input = constant(name, type);
  if (input.shape != Shape{length}) {
    throw Refusal(std::string("input '") + name + "': expected shape " + text_of({length}) +
                  ", found " + text_of(input.shape));
  }
  return input;
}

const Tensor& Node::activation(const char* name, std::initializer_list<Type> allowed) const {
  const Tensor& input = (*this)[name];
  if (std::find(allowed.begin(), allowed.end(), input.type) == allowed.end()) {
    std::string types;
    for (Type type : allowed) types += (types.empty() ? "" : " or ") + std::string(name_of(type));
    throw Refusal(std::string("input '") + name + "': expected " + types + ", found " +
                  name_of(input.type));
  }
  return input;
}

}  // namespace mnq
