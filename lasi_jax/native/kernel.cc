// LASI on a CPU: the moments, the solves and their adjoints of a row at a time, in registers.
//
// Compiled for one neighbourhood size N and one precision, at first use; see build.py. In the
// words of wls/derivatives.py, every element t of an image has N (N + 3) / 2 moments, sums over the
// earlier elements j of products of the neighbours' values and the element's own, with weights
// decay^|j - t|.
//
// Two layouts alternate. While sums are formed, the moments of one element lie side by side in V
// vectors: the recursions go along the row, so that elements cannot share a vector. To be solved, a
// group of L elements is transposed: a vector then holds one moment of L elements.
//
// How the sums of a row are formed, with d the decay, w a pixel and c a channel of it: p is the sum
// over the channels before and c itself, e the sum over all channels of the pixel, and
//
//     U_h(w) = e_h(w) + d U_{h-1}(w)                 straight up, this row included
//     Z(w)   = d Z(w-1) + e(w-1) + U_{h-1}(w)        to the left, and above to the left
//     G(w)   = U_{h-1}(w) + d G(w+1)                 above to the right
//     total  = d (p(c-1) + Z(w) + d G(w+1)).
//
// The last factor d is left out; the ridge is divided by it instead. Only U is kept for a whole
// row. G runs against the direction of the walk: its value where a segment of the row ends is known
// beforehand, because with e in the place of U it can be summed while the row above is walked.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using real = LASI_REAL;
constexpr int N = LASI_N;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int L = kVectorBytes / sizeof(real);  // lanes
typedef real vec __attribute__((vector_size(kVectorBytes)));

constexpr int P = N * (N + 3) / 2;      // moments
constexpr int V = (P + L - 1) / L;      // vectors of moments
constexpr int F = (N + L) / L * L;      // room for N + 1 features, in whole vectors

#if LASI_N <= 16
#define LASI_UNROLL _Pragma("GCC unroll 64")
#else
#define LASI_UNROLL _Pragma("GCC unroll 1")
#endif
#define LASI_INLINE inline __attribute__((always_inline))
#define LASI_APART __attribute__((noinline))

// The place of the moment of i <= k among all.
constexpr int at(int i, int k) { return i * (N + 1) - i * (i - 1) / 2 + (k - i); }

// Which two features each moment is the product of; what fills the last vector up is a square.
struct Pairs {
  int row[V * L] = {};
  int column[V * L] = {};
  constexpr Pairs() {
    for (int i = 0; i < N; ++i)
      for (int k = i; k <= N; ++k) row[at(i, k)] = i, column[at(i, k)] = k;
  }
};
constexpr Pairs kPairs;

typedef std::conditional_t<sizeof(real) == 4, std::int32_t, std::int64_t> index;
typedef index indices __attribute__((vector_size(kVectorBytes)));

// Lane j of the result is entry at[j] of a and b side by side.
LASI_INLINE vec lookup(vec a, vec b, indices at) {
#if defined(__clang__)
  vec x;
  for (int j = 0; j < L; ++j) x[j] = at[j] < L ? a[at[j]] : b[at[j] - L];
  return x;
#else
  return __builtin_shuffle(a, b, at);
#endif
}

template <class Index, std::size_t... I>
LASI_INLINE vec shuffled(vec a, vec b, std::index_sequence<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Index::of(I)...);
#else
  return lookup(a, b, indices{Index::of(I)...});
#endif
}

// Lane j of the result is entry Index::of(j) of a and b side by side.
template <class Index>
LASI_INLINE vec shuffle(vec a, vec b) {
  return shuffled<Index>(a, b, std::make_index_sequence<L>());
}

template <int v>
struct RowOf {
  static constexpr int of(int lane) { return kPairs.row[v * L + lane]; }
};
template <int v>
struct ColumnOf {
  static constexpr int of(int lane) { return kPairs.column[v * L + lane]; }
};

// Whether the features of one element fit into two vectors, so that shuffles pick them.
constexpr bool kShuffles = F <= 2 * L && V <= 32;

LASI_INLINE vec load(const real* p) {
  vec x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
LASI_INLINE void store(real* p, vec x) { std::memcpy(p, &x, sizeof x); }
LASI_INLINE vec filled(real x) { return vec{} + x; }

template <class Index>
LASI_INLINE vec picked(const real* features) {
  return shuffle<Index>(load(features), load(features + (F > L ? L : 0)));
}

LASI_INLINE vec picked_by(const int* index, const real* features) {
  real x[L];
  for (int j = 0; j < L; ++j) x[j] = features[index[j]];
  return load(x);
}

// What a moment's example is: phi_i phi_k; the same with weighted features on the left; or
// left_i right_k + left_k right_i.
enum class Kind { kSquare, kWeighted, kMixed };

// What the library is compiled for: images of this many channels, 0 for any; with weights or not.
constexpr int kChannels = LASI_CHANNELS;
constexpr Kind kKind = LASI_WEIGHTED ? Kind::kWeighted : Kind::kSquare;

template <Kind kind, int v>
LASI_INLINE vec product(const real* left, const real* right) {
  using Row = RowOf<v>;
  using Column = ColumnOf<v>;
  if constexpr (kind == Kind::kSquare) return picked<Row>(left) * picked<Column>(left);
  vec x = picked<Row>(left) * picked<Column>(right);
  if constexpr (kind == Kind::kMixed) x += picked<Column>(left) * picked<Row>(right);
  return x;
}

template <Kind kind>
LASI_INLINE vec product_at(int v, const real* left, const real* right) {
  const int *row = kPairs.row + v * L, *column = kPairs.column + v * L;
  vec x = picked_by(row, left) * picked_by(column, right);
  if (kind == Kind::kMixed) x += picked_by(column, left) * picked_by(row, right);
  return x;
}

// ---- Transposition of L vectors of L entries.

constexpr int kBlock = 16 / sizeof(real);  // entries of 128 bits
constexpr int kBlocks = L / kBlock;

template <int width, bool high>
struct Unpack {  // within each 128 bits, entries of `width` from a and b in turn
  static constexpr int of(int lane) {
    const int block = lane / kBlock * kBlock, place = lane % kBlock;
    const int from = place / width % 2, entry = place / (2 * width) * width + place % width;
    return from * L + block + entry + (high ? kBlock / 2 : 0);
  }
};

template <bool odd>
struct Blocks {  // every second block of 128 bits: of a, then of b
  static constexpr int of(int lane) {
    const int block = lane / kBlock, half = kBlocks / 2;
    const int from = block / half;
    return from * L + (2 * (block % half) + (odd ? 1 : 0)) * kBlock + lane % kBlock;
  }
};

LASI_INLINE void transpose(const vec* in, vec* out) {
  vec t[L];
  LASI_UNROLL
  for (int g = 0; g < L; g += kBlock) {
    if constexpr (kBlock == 4) {
      const vec a = shuffle<Unpack<1, false>>(in[g], in[g + 1]);
      const vec b = shuffle<Unpack<1, true>>(in[g], in[g + 1]);
      const vec c = shuffle<Unpack<1, false>>(in[g + 2], in[g + 3]);
      const vec d = shuffle<Unpack<1, true>>(in[g + 2], in[g + 3]);
      t[g] = shuffle<Unpack<2, false>>(a, c), t[g + 1] = shuffle<Unpack<2, true>>(a, c);
      t[g + 2] = shuffle<Unpack<2, false>>(b, d), t[g + 3] = shuffle<Unpack<2, true>>(b, d);
    } else {
      t[g] = shuffle<Unpack<1, false>>(in[g], in[g + 1]);
      t[g + 1] = shuffle<Unpack<1, true>>(in[g], in[g + 1]);
    }
  }
  LASI_UNROLL
  for (int i = 0; i < kBlock; ++i) {
    if constexpr (kBlocks == 1) {
      out[i] = t[i];
    } else if constexpr (kBlocks == 2) {
      out[i] = shuffle<Blocks<false>>(t[i], t[kBlock + i]);
      out[kBlock + i] = shuffle<Blocks<true>>(t[i], t[kBlock + i]);
    } else {
      const vec a = shuffle<Blocks<false>>(t[i], t[kBlock + i]);
      const vec b = shuffle<Blocks<false>>(t[2 * kBlock + i], t[3 * kBlock + i]);
      const vec c = shuffle<Blocks<true>>(t[i], t[kBlock + i]);
      const vec d = shuffle<Blocks<true>>(t[2 * kBlock + i], t[3 * kBlock + i]);
      out[i] = shuffle<Blocks<false>>(a, b), out[2 * kBlock + i] = shuffle<Blocks<true>>(a, b);
      out[kBlock + i] = shuffle<Blocks<false>>(c, d);
      out[3 * kBlock + i] = shuffle<Blocks<true>>(c, d);
    }
  }
}

// ---- Memory, and threads.

constexpr std::size_t kPage = 4096;
// In one huge page no two lines of a row compete for a place in the cache by chance.
constexpr std::size_t kHuge = std::size_t(2) << 20, kLarge = kHuge / 32;

// Blocks that are kept for the next call: new memory has to be cleared by the system, which takes
// longer than to fill it. No more than kKept bytes of them, of any sizes.
class Store {
 public:
  void* take(std::size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = blocks_.begin(); block != blocks_.end(); ++block)
        if (block->bytes == bytes) {
          void* p = block->p;
          kept_ -= bytes;
          blocks_.erase(block);
          return p;
        }
    }
    void* p = std::aligned_alloc(bytes < kHuge ? kPage : kHuge, bytes);
    if (p == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
  }
  void give(void* p, std::size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    try {
      blocks_.push_back({p, bytes});
    } catch (const std::bad_alloc&) {
      std::free(p);
      return;
    }
    for (kept_ += bytes; kept_ > kKept; blocks_.erase(blocks_.begin())) {
      kept_ -= blocks_.front().bytes;
      std::free(blocks_.front().p);
    }
  }

 private:
  static constexpr std::size_t kKept = std::size_t(128) << 20;
  struct Block {
    void* p;
    std::size_t bytes;
  };
  std::mutex mutex_;
  std::vector<Block> blocks_;  // the oldest first
  std::size_t kept_ = 0;
};
Store& memory() {
  static Store* const store = new Store;  // never destroyed: threads may outlive statics
  return *store;
}

struct Give {
  std::size_t bytes = 0, place = 0;
  void operator()(void* p) const { memory().give(static_cast<char*>(p) - place, bytes); }
};
template <class T>
using Array = std::unique_ptr<T[], Give>;

// `place`: where in a page it begins. A processor takes a load for one of what was just stored if
// both lie at the same place of their pages, and waits: what a loop reads and writes must not.
template <class T>
Array<T> allocate(std::int64_t count, std::size_t place = 0) {
  const std::size_t least = count * sizeof(T) + place + 1, whole = least < kLarge ? kPage : kHuge;
  const std::size_t bytes = (least + whole - 1) / whole * whole;
  char* p = static_cast<char*>(memory().take(bytes));
  return Array<T>(reinterpret_cast<T*>(p + place), Give{bytes, place});
}

template <class T>
Array<T> zeros(std::int64_t count, std::size_t place = 0) {
  Array<T> array = allocate<T>(count, place);
  std::memset(static_cast<void*>(array.get()), 0, count * sizeof(T));
  return array;
}

// Runs work(0) ... work(count - 1) on the threads of XLA's pool and on this one, which never waits
// for work that nobody has begun: a pool whose threads are all busy is no deadlock.
template <class Work>
void in_parallel(ffi::ThreadPool& pool, int threads, std::int64_t count, const Work& work) {
  struct State {
    std::atomic<std::int64_t> next{0};
    std::int64_t count, done = 0;
    const Work* work;
    std::mutex mutex;
    std::condition_variable all;
    bool failed = false;
  };
  auto state = std::make_shared<State>();
  state->count = count, state->work = &work;
  const auto help = [](State& state) {
    std::int64_t mine = 0, i;
    bool failed = false;
    while ((i = state.next++) < state.count) {
      try {
        (*state.work)(i);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      ++mine;
    }
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(state.mutex);
    state.failed |= failed;
    if ((state.done += mine) == state.count) state.all.notify_all();
  };
  for (int t = 1; t < std::min<std::int64_t>(threads, count); ++t) {
    try {
      pool.Schedule([state, help] { help(*state); });
    } catch (const std::bad_alloc&) {
      break;  // fewer helpers do
    }
  }
  help(*state);
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all.wait(lock, [&] { return state->done == state->count; });
  if (state->failed) throw std::bad_alloc();
}

// ---- Where the neighbours are.

struct Geometry {
  std::int64_t height, width, channels, row;  // row = width * channels
  int segment;                                // pixels of a segment of a row
  std::int64_t segments;
  int room;  // elements of a segment, in whole groups
  real decay;
  std::vector<real> powers;  // of the decay: 0 ... segment

  Geometry(std::int64_t height, std::int64_t width, std::int64_t channels, double decay)
      : height(height), width(width), channels(channels), row(width * channels), decay(decay) {
    segment = std::max<std::int64_t>(1, std::min<std::int64_t>(width, 3 * L / channels));
    segments = (width + segment - 1) / segment;
    room = (segment * channels + L - 1) / L * L;
    for (int i = 0; i <= segment; ++i) powers.push_back(std::pow(decay, i));
  }
  std::int64_t size() const { return height * row; }
  // The channels, as a constant where the library is compiled for them.
  int known_channels() const { return kChannels ? kChannels : channels; }
  int pixels(std::int64_t s) const {
    return std::min<std::int64_t>(segment, width - s * segment);
  }
  // Vectors of U of a whole row.
  std::int64_t row_vectors() const { return segments * V * room; }
};

// The neighbours' places relative to an element, from steps (row, pixel, channel) for the first
// rows and for the pixels of a row that is as narrow as shows both of its ends.
class Neighbors {
 public:
  Neighbors(const Geometry& g, const std::int32_t* steps, std::int64_t kinds, std::int64_t columns)
      : g_(g), kinds_(kinds), columns_(columns), offsets_(kinds * columns * g.channels * N) {
    for (std::size_t i = 0; i < offsets_.size(); ++i) {
      const std::int32_t* step = steps + 3 * i;
      offsets_[i] = step[0] * g.row + step[1] * g.channels + step[2];  // 0: there is none
    }
    find_inside();
    for (int c = 0; c < g.channels; c += kTogether) find_windows(c);
    first_.push_back(windows_.size());
  }
  // The places (channels, N) of the neighbours of pixel w of row h.
  const std::int64_t* of(std::int64_t h, std::int64_t w) const {
    const std::int64_t side = columns_ / 2;
    std::int64_t column = w;
    if (columns_ < g_.width && w >= side)
      column = w < g_.width - side ? side : columns_ - (g_.width - w);
    return in_column(std::min(h, kinds_ - 1), column);
  }

  // The features of the pixels w0 ... of row h, F to an element; in reverse order if `reverse`.
  LASI_APART void features(const real* image, std::int64_t h, std::int64_t w0, int pixels,
                           bool reverse, real* out) const {
    const int channels = g_.channels;
    const std::int64_t step = reverse ? -F : F;
    if (reverse) out += (std::int64_t(pixels) * channels - 1) * F;
    const real* own = image + h * g_.row + w0 * channels;
    for (int w = 0; w < pixels; ++w) {
      if (inside(h, w0 + w) && own - image >= farthest_) {
        for (int c = 0; c < channels; c += kTogether, own += kTogether, out += kTogether * step)
          look_up(own, c / kTogether, step, out);
        continue;
      }
      const std::int64_t* offset = of(h, w0 + w);
      for (int c = 0; c < channels; ++c, ++own, offset += N, out += step) {
        LASI_UNROLL
        for (int k = 0; k < N; ++k) out[k] = offset[k] ? own[offset[k]] : real(0);
        out[N] = *own;
      }
    }
  }

 private:
  static constexpr int kParts = F / L;
  // Elements that share their windows: all channels of a pixel, if they are known.
  static constexpr int kTogether = kChannels ? kChannels : 1;
  // L values before a pixel, and which lanes of its elements' features they are.
  struct Window {
    std::int64_t start;
    indices at[kTogether][kParts];
  };

  const std::int64_t* in_column(std::int64_t kind, std::int64_t column) const {
    return &offsets_[(kind * columns_ + column) * g_.channels * N];
  }

  // The pixels of a row whose neighbours are those of the pixel in the middle.
  void find_inside() {
    const std::int64_t middle = columns_ / 2, count = g_.channels * N;
    const std::int64_t* same = in_column(kinds_ - 1, middle);
    const auto alike = [&](std::int64_t w) {
      return std::equal(same, same + count, in_column(kinds_ - 1, w));
    };
    begin_ = middle;
    while (begin_ > 0 && alike(begin_ - 1)) --begin_;
    std::int64_t end = middle + 1;
    while (end < columns_ && alike(end)) ++end;
    end_ = g_.width - (columns_ - end);
    if (std::find(same, same + count, 0) != same + count) end_ = begin_;
  }

  // Of the elements from channel c on that share theirs.
  void find_windows(int c) {
    struct Place {
      std::int64_t at;  // relative to the first of the elements
      int element, feature;
    };
    const std::int64_t* offset = in_column(kinds_ - 1, columns_ / 2) + c * N;
    std::vector<Place> places;
    for (int i = 0; i < kTogether; ++i, offset += N) {
      places.push_back({i, i, N});
      for (int k = 0; k < N; ++k) places.push_back({i + offset[k], i, k});
    }
    std::sort(places.begin(), places.end(),
              [](const Place& a, const Place& b) { return a.at > b.at; });
    first_.push_back(windows_.size());
    for (auto place = places.begin(); place != places.end();) {
      Window window;
      window.start = place->at - (L - 1);
      farthest_ = std::max(farthest_, -window.start);
      for (auto& of_element : window.at)
        for (auto& part : of_element)
          for (int j = 0; j < L; ++j) part[j] = j;
      for (; place != places.end() && place->at >= window.start; ++place)
        window.at[place->element][place->feature / L][place->feature % L] =
            L + place->at - window.start;
      windows_.push_back(window);
    }
  }

  bool inside(std::int64_t h, std::int64_t w) const {
    return h >= kinds_ - 1 && w >= begin_ && w < end_;
  }

  LASI_INLINE void look_up(const real* own, int group, std::int64_t step, real* out) const {
    vec x[kTogether][kParts] = {};
    for (std::size_t i = first_[group]; i < first_[group + 1]; ++i) {
      const vec window = load(own + windows_[i].start);
      for (int e = 0; e < kTogether; ++e)
        for (int part = 0; part < kParts; ++part)
          x[e][part] = lookup(x[e][part], window, windows_[i].at[e][part]);
    }
    for (int e = 0; e < kTogether; ++e)
      for (int part = 0; part < kParts; ++part) store(out + e * step + part * L, x[e][part]);
  }

  const Geometry& g_;
  std::int64_t kinds_, columns_;
  std::vector<std::int64_t> offsets_;
  std::int64_t begin_ = 0, end_ = 0, farthest_ = 0;  // pixels inside; how far windows reach
  std::vector<Window> windows_;
  std::vector<std::size_t> first_;  // window of each group of elements, and the end
};

// ---- The sums of one image, row by row, segment by segment.

template <Kind kind>
class Sums {
 public:
  // `above`: U above the first row, which is used up, or null where no rows are above.
  Sums(const Geometry& g, vec* above)
      : g_(g),
        own_(above == nullptr ? zeros<vec>(g.row_vectors()) : Array<vec>()),
        above_(above == nullptr ? own_.get() : above),
        right_(zeros<vec>((g.segments + 1) * V * g.channels)),
        row_right_(zeros<vec>((g.segments + 1) * V * g.channels)),
        left_(zeros<vec>(V * g.channels)), scratch_(allocate<vec>(3 * g.channels)),
        total_(zeros<vec>(V * g.room, kPage / 2)) {
    if (above != nullptr) find_right();
  }

  const vec* total() const { return total_.get(); }

  void start_row() {
    std::memset(static_cast<void*>(left_.get()), 0, V * g_.channels * sizeof(vec));
  }

  // The totals of segment s, from features of its elements; `total` then holds them.
  LASI_APART void segment(std::int64_t s, const real* left, const real* right) {
    if constexpr (kShuffles) {
      each_vector(s, left, right, std::make_index_sequence<V>());
    } else {
      for (int v = 0; v < V; ++v)
        walk(s, v, [v](const real* a, const real* b) { return product_at<kind>(v, a, b); }, left,
             right);
    }
  }

  void end_row() {
    const int C = g_.known_channels();
    for (std::int64_t s = g_.segments; s-- > 0;) {
      const real power = g_.powers[g_.pixels(s)];
      for (int i = 0; i < V * C; ++i) {
        vec& row = row_right_[s * V * C + i];
        row += power * row_right_[(s + 1) * V * C + i];
        right_[s * V * C + i] = row + g_.decay * right_[s * V * C + i];
      }
    }
  }

  // U of segment s alone, which needs nothing of other segments.
  static void rise(const Geometry& g, std::int64_t s, const real* left, const real* right,
                   vec* above, vec* scratch) {
    if constexpr (kShuffles) {
      each_rise(g, s, left, right, above, scratch, std::make_index_sequence<V>());
    } else {
      for (int v = 0; v < V; ++v)
        rise_one(g, s, v, [v](const real* a, const real* b) { return product_at<kind>(v, a, b); },
                 left, right, above, scratch);
    }
  }

 private:
  // G of the row above where a segment begins.
  void find_right() {
    const int C = g_.known_channels();
    for (std::int64_t s = g_.segments; s-- > 0;)
      for (int v = 0; v < V; ++v) {
        const vec* u = above_ + (s * V + v) * g_.room;
        for (int c = 0; c < C; ++c) {
          vec sum = right_[((s + 1) * V + v) * C + c];
          for (int w = g_.pixels(s); w-- > 0;) sum = u[w * C + c] + g_.decay * sum;
          right_[(s * V + v) * C + c] = sum;
        }
      }
  }

  template <std::size_t... v>
  LASI_INLINE void each_vector(std::int64_t s, const real* left, const real* right,
                               std::index_sequence<v...>) {
    (walk(s, v, [](const real* a, const real* b) { return product<kind, int(v)>(a, b); }, left,
          right),
     ...);
  }
  template <std::size_t... v>
  static LASI_INLINE void each_rise(const Geometry& g, std::int64_t s, const real* left,
                                    const real* right, vec* above, vec* scratch,
                                    std::index_sequence<v...>) {
    (rise_one(g, s, v, [](const real* a, const real* b) { return product<kind, int(v)>(a, b); },
              left, right, above, scratch),
     ...);
  }

  // p(c - 1), of all channels but the first, and e of the channels of one pixel.
  template <class Product>
  static LASI_INLINE void pixel(real d, const Product& of, const real* left, const real* right,
                                int C, vec* own, vec* before, vec* every) {
    for (int c = 0; c < C; ++c) own[c] = of(left + c * F, right + c * F);
    every[0] = own[0];
    for (int c = 1; c < C; ++c) {
      before[c] = every[c - 1];
      every[c] = own[c] + d * before[c];
    }
    if (C == 1) return;
    vec after = own[C - 1];
    for (int c = C - 1; c-- > 0;) {
      every[c] += d * after;
      if (c > 0) after = own[c] + d * after;
    }
  }

  template <class Product>
  void walk(std::int64_t s, int v, const Product& of, const real* left, const real* right) {
    constexpr int kRoom = kChannels ? kChannels : 1;
    const int C = g_.known_channels(), pixels = g_.pixels(s);
    const real d = g_.decay;
    vec* u = above_ + (s * V + v) * g_.room;
    vec* total = total_.get() + v * g_.room;
    {
      const vec* arriving = right_.get() + ((s + 1) * V + v) * C;
      vec fixed[kRoom];
      vec* g = kChannels ? fixed : scratch_.get();
      for (int c = 0; c < C; ++c) g[c] = arriving[c];
      for (int w = pixels; w-- > 0;)
        for (int c = 0; c < C; ++c) {
          const vec further = d * g[c];
          total[w * C + c] = further;
          g[c] = u[w * C + c] + further;
        }
    }
    vec fixed[5][kRoom];
    vec* own = kChannels ? fixed[0] : scratch_.get();
    vec* before = kChannels ? fixed[1] : scratch_.get() + C;
    vec* every = kChannels ? fixed[2] : scratch_.get() + 2 * C;
    vec* carry = kChannels ? fixed[3] : left_.get() + v * C;
    vec* sum = kChannels ? fixed[4] : row_right_.get() + (s * V + v) * C;
    for (int c = 0; c < C; ++c) {
      if (kChannels) carry[c] = left_[v * C + c];
      sum[c] = vec{};
    }
    for (int w = 0; w < pixels; ++w) {
      pixel(d, of, left + w * C * F, right + w * C * F, C, own, before, every);
      const real power = g_.powers[w];
      for (int c = 0; c < C; ++c) {
        const int e = w * C + c;
        const vec z = carry[c] + u[e];
        total[e] += c == 0 ? z : before[c] + z;
        carry[c] = every[c] + d * z;
        sum[c] += power * every[c];
        u[e] = every[c] + d * u[e];
        __builtin_prefetch(u + g_.room + e);
      }
    }
    if (kChannels)
      for (int c = 0; c < C; ++c) {
        left_[v * C + c] = carry[c];
        row_right_[(s * V + v) * C + c] = sum[c];
      }
  }

  template <class Product>
  static void rise_one(const Geometry& g, std::int64_t s, int v, const Product& of,
                       const real* left, const real* right, vec* above, vec* scratch) {
    constexpr int kRoom = kChannels ? kChannels : 1;
    const int C = g.known_channels(), pixels = g.pixels(s);
    const real d = g.decay;
    vec* u = above + (s * V + v) * g.room;
    vec fixed[3][kRoom];
    vec* own = kChannels ? fixed[0] : scratch;
    vec* before = kChannels ? fixed[1] : scratch + C;
    vec* every = kChannels ? fixed[2] : scratch + 2 * C;
    for (int w = 0; w < pixels; ++w) {
      pixel(d, of, left + w * C * F, right + w * C * F, C, own, before, every);
      for (int c = 0; c < C; ++c) u[w * C + c] = every[c] + d * u[w * C + c];
    }
  }

  const Geometry& g_;
  Array<vec> own_;
  vec* above_;            // U, of the row above: (segments, V, room)
  Array<vec> right_;      // G where a segment begins: (segments + 1, V, channels)
  Array<vec> row_right_;  // the same with this row's e in the place of U
  Array<vec> left_;       // d Z + e of the last pixel: (V, channels)
  Array<vec> scratch_;
  Array<vec> total_;      // (V, room)
};

// ---- The ridge systems of L elements, for M images at once: their steps fill each other's waits.

// `ridge` is added to the diagonal, `prior` to the right-hand sides.
// `moments`: (V L) planes of each; turned into the factors of A = L D L^T, D L^T in place of A, and
// the right-hand sides, their last column, into coefficients.
template <int M>
LASI_APART void solve(vec (*moments)[V * L], vec (*inverse)[N], vec (*x)[N], real ridge,
                      real prior) {
  LASI_UNROLL
  for (int k = 0; k < N; ++k) {
    vec row[M][N + 1];
    LASI_UNROLL
    for (int j = k; j <= N; ++j)
      LASI_UNROLL
      for (int m = 0; m < M; ++m) row[m][j] = moments[m][at(k, j)];
    LASI_UNROLL
    for (int m = 0; m < M; ++m) {
      row[m][k] += ridge;
      row[m][N] += prior;
    }
    LASI_UNROLL
    for (int i = 0; i < k; ++i) {
      vec factor[M];
      LASI_UNROLL
      for (int m = 0; m < M; ++m) factor[m] = moments[m][at(i, k)] * inverse[m][i];
      LASI_UNROLL
      for (int j = k; j <= N; ++j)
        LASI_UNROLL
        for (int m = 0; m < M; ++m) row[m][j] -= factor[m] * moments[m][at(i, j)];
    }
    LASI_UNROLL
    for (int j = k; j <= N; ++j)
      LASI_UNROLL
      for (int m = 0; m < M; ++m) moments[m][at(k, j)] = row[m][j];
    LASI_UNROLL
    for (int m = 0; m < M; ++m) inverse[m][k] = real(1) / row[m][k];
  }
  LASI_UNROLL
  for (int k = 0; k < N; ++k)
    LASI_UNROLL
    for (int m = 0; m < M; ++m) x[m][k] = moments[m][at(k, N)];
  LASI_UNROLL
  for (int k = N - 1; k >= 0; --k) {
    LASI_UNROLL
    for (int m = 0; m < M; ++m) x[m][k] *= inverse[m][k];
    LASI_UNROLL
    for (int i = 0; i < k; ++i)
      LASI_UNROLL
      for (int m = 0; m < M; ++m) x[m][i] -= moments[m][at(i, k)] * x[m][k];
  }
}

// A^{-1} x in the place of x, by the factors that `solve` left.
LASI_INLINE void solve_again(const vec* moments, const vec* inverse, vec* x) {
  LASI_UNROLL
  for (int k = 0; k < N; ++k) {
    const vec scaled = x[k] * inverse[k];
    LASI_UNROLL
    for (int i = k + 1; i < N; ++i) x[i] -= moments[at(k, i)] * scaled;
  }
  LASI_UNROLL
  for (int k = N - 1; k >= 0; --k) {
    x[k] *= inverse[k];
    LASI_UNROLL
    for (int i = 0; i < k; ++i) x[i] -= moments[at(i, k)] * x[k];
  }
}

LASI_INLINE vec square_root(vec x) {
  real y[L];
  store(y, x);
  for (int j = 0; j < L; ++j) y[j] = std::sqrt(y[j]);
  return load(y);
}

// Moments of group i of a segment, a plane each.
LASI_APART void planes_of(const vec* total, int room, int group, vec* out) {
  LASI_UNROLL
  for (int v = 0; v < V; ++v) transpose(total + v * room + group * L, out + v * L);
}

LASI_INLINE void store_some(real* p, vec x, int count) {
  if (count == L) return store(p, x);
  real y[L];
  store(y, x);
  for (int j = 0; j < count; ++j) p[j] = y[j];
}

// Coefficients to embeddings, in their place; gives 1 / norm.
constexpr real kOffset = 1e-6;
LASI_INLINE vec normalize(vec* theta) {
  vec squares = {};
  LASI_UNROLL
  for (int k = 0; k < N; ++k) {
    theta[k] += kOffset;
    squares += theta[k] * theta[k];
  }
  const vec inverse_norm = real(1) / square_root(squares);
  LASI_UNROLL
  for (int k = 0; k < N; ++k) theta[k] *= inverse_norm;
  return inverse_norm;
}

// |e_x - e_y|.
LASI_INLINE vec separation(const vec* of_x, const vec* of_y) {
  vec squared = {};
  LASI_UNROLL
  for (int k = 0; k < N; ++k) {
    const vec apart = of_x[k] - of_y[k];
    squared += apart * apart;
  }
  // Closer than a few units of rounding they coincide.
  constexpr real rounding = sizeof(real) == 4 ? 4 * 1.1920929e-7 : 4 * 2.220446049250313e-16;
  const auto same = squared <= filled(rounding * rounding);
  return same ? vec{} : square_root(squared);
}

LASI_INLINE vec load_some(const real* p, int count) {
  if (count == L) return load(p);
  real y[L] = {};
  for (int j = 0; j < count; ++j) y[j] = p[j];
  return load(y);
}

// N planes, `plane` elements apart: `count` elements of each.
LASI_INLINE void load_planes(const real* p, std::int64_t plane, int count, vec* x) {
  for (int k = 0; k < N; ++k) x[k] = load_some(p + k * plane, count);
}
LASI_INLINE void store_planes(real* p, std::int64_t plane, int count, const vec* x) {
  for (int k = 0; k < N; ++k) store_some(p + k * plane, x[k], count);
}

// Row i < N of the symmetric matrix of moments, times N planes and a last one.
LASI_INLINE vec row_times(const vec* moments, int i, const vec* x, vec last) {
  vec sum = moments[at(i, N)] * last;
  LASI_UNROLL
  for (int k = 0; k < N; ++k) sum += moments[i < k ? at(i, k) : at(k, i)] * x[k];
  return sum;
}

// ---- Where the features of a walk come from.

// A segment's features (room, F), those of what fills it up 0.
struct Features {
  Array<real> left, right;
  explicit Features(const Geometry& g)
      : left(zeros<real>(g.room * F, 64)), right(zeros<real>(g.room * F, 64)) {}
};

// An image, or two whose products are mixed, top to bottom.
struct Source {
  const real* values;
  const real* other;    // or null
  const real* weights;  // or null

  template <Kind kind>
  void fill(const Geometry& g, const Neighbors& neighbors, std::int64_t h, std::int64_t s,
            Features& out) const {
    const int pixels = g.pixels(s);
    const std::int64_t w = s * g.segment;
    neighbors.features(values, h, w, pixels, false, out.right.get());
    if (kind == Kind::kSquare) return;
    const real* from = out.right.get();
    if (kind == Kind::kMixed) {
      neighbors.features(other, h, w, pixels, false, out.left.get());
      from = out.left.get();
    }
    if (weights == nullptr) return;
    const real* weight = weights + h * g.row + w * g.channels;
    for (int e = 0; e < pixels * g.channels; ++e)
      for (int i = 0; i < F; i += L)
        store(out.left.get() + e * F + i, weight[e] * load(from + e * F + i));
  }
};

// Vectors u and v (N planes each) in the reverse order of elements: the adjoint of a walk.
struct Vectors {
  const real* u;
  const real* v;
  std::int64_t plane;  // elements of a plane; the first is that of row `first`
  std::int64_t first;
  real own;

  LASI_APART void fill(const Geometry& g, std::int64_t h, std::int64_t w, int pixels,
                       Features& out) const {
    const int count = pixels * g.channels;
    const std::int64_t start = (h - first) * g.row + w * g.channels;
    for (int e = 0; e < count; e += L) {
      const int some = std::min(L, count - e);
      turn(u + start + e, real(0), some, out.left.get() + (count - 1 - e) * F);
      turn(v + start + e, own, some, out.right.get() + (count - 1 - e) * F);
    }
  }

  // N planes and a constant as features of `count` elements, the first of them last.
  void turn(const real* planes, real last, int count, real* out) const {
    for (int i = 0; i < F; i += L) {
      vec columns[L], rows[L];
      LASI_UNROLL
      for (int k = i; k < i + L; ++k)
        columns[k - i] = k < N ? load_some(planes + k * plane, count)
                               : filled(k == N ? last : real(0));
      transpose(columns, rows);
      for (int j = 0; j < count; ++j) store(out - j * F + i, rows[j]);
    }
  }
};

// ---- Walks.

// A walk along the segments of M images at once. `above`: U of the row above the first, for each
// image, which is used up, or null for none.
template <Kind kind, int M>
class Walk {
 public:
  Walk(const Geometry& g, const Neighbors& neighbors, const Source* sources, vec* above)
      : g_(g), neighbors_(neighbors), sources_(sources, sources + M), features_(g) {
    sums_.reserve(M);
    for (int m = 0; m < M; ++m)
      sums_.emplace_back(g, above == nullptr ? nullptr : above + m * g.row_vectors());
  }

  // Segment s of row h, which follows the one before.
  void segment(std::int64_t h, std::int64_t s) {
    const real* left = (kind == Kind::kSquare ? features_.right : features_.left).get();
    for (int m = 0; m < M; ++m) {
      if (s == 0) sums_[m].start_row();
      sources_[m].template fill<kind>(g_, neighbors_, h, s, features_);
      sums_[m].segment(s, left, features_.right.get());
      if (s + 1 == g_.segments) sums_[m].end_row();
    }
  }

  // The moments of its elements from group * L on, of each image.
  void planes(int group, vec (*moments)[V * L]) const {
    for (int m = 0; m < M; ++m) planes_of(sums_[m].total(), g_.room, group, moments[m]);
  }

 private:
  const Geometry& g_;
  const Neighbors& neighbors_;
  std::vector<Source> sources_;
  std::vector<Sums<kind>> sums_;
  Features features_;
};

// Rows `from` ... `to`; consume(h, element of the row, count, moments) is called for every group
// of at most L elements.
template <Kind kind, int M, class Consume>
void walk(const Geometry& g, const Neighbors& neighbors, const Source* sources, vec* above,
          std::int64_t from, std::int64_t to, const Consume& consume) {
  Walk<kind, M> walk(g, neighbors, sources, above);
  vec moments[M][V * L];
  for (std::int64_t h = from; h < to; ++h)
    for (std::int64_t s = 0; s < g.segments; ++s) {
      walk.segment(h, s);
      const int elements = g.pixels(s) * g.channels;
      for (int group = 0; group * L < elements; ++group) {
        walk.planes(group, moments);
        consume(h, s * g.segment * g.channels + group * L, std::min(L, elements - group * L),
                moments);
      }
    }
}

constexpr std::int64_t kPieceBytes = 1 << 17;  // of U that a thread walks down with

// U above the first row of every band but the first, for M images: (bands - 1, M, row_vectors).
// The pixels of a row need nothing of each other: so few segments at a time that their U stays in
// the cache from row to row.
template <Kind kind, int M>
Array<vec> rows_above(ffi::ThreadPool& pool, int threads, const Geometry& g,
                      const Neighbors& neighbors, const Source* sources,
                      const std::vector<std::int64_t>& starts) {
  const std::int64_t row = g.row_vectors(), bands = starts.size() - 1;
  Array<vec> found = allocate<vec>((bands - 1) * M * row);
  if (bands == 1) return found;
  const std::int64_t bytes = V * g.room * sizeof(vec);
  const std::int64_t few = std::max<std::int64_t>(1, kPieceBytes / bytes);
  const std::int64_t least = std::min<std::int64_t>(g.segments, 2 * threads);
  const std::int64_t pieces = std::max(least, (g.segments + few - 1) / few);
  in_parallel(pool, threads, pieces * M, [&](std::int64_t task) {
    const std::int64_t m = task % M, piece = task / M;
    const std::int64_t begin = g.segments * piece / pieces;
    const std::int64_t end = g.segments * (piece + 1) / pieces;
    const std::int64_t first = begin * V * g.room, count = (end - begin) * V * g.room;
    const Array<vec> piece_above = zeros<vec>(count), scratch = allocate<vec>(3 * g.channels);
    vec* above = piece_above.get() - first;
    Features features(g);
    const real* left = kind == Kind::kSquare ? features.right.get() : features.left.get();
    for (std::int64_t band = 1; band < bands; ++band) {
      for (std::int64_t h = starts[band - 1]; h < starts[band]; ++h)
        for (std::int64_t s = begin; s < end; ++s) {
          sources[m].template fill<kind>(g, neighbors, h, s, features);
          Sums<kind>::rise(g, s, left, features.right.get(), above, scratch.get());
        }
      std::memcpy(static_cast<void*>(found.get() + ((band - 1) * M + m) * row + first),
                  above + first, count * sizeof(vec));
    }
  });
  return found;
}

std::vector<std::int64_t> cut(std::int64_t height, std::int64_t bands) {
  std::vector<std::int64_t> starts;
  for (std::int64_t b = 0; b <= bands; ++b) starts.push_back(height * b / bands);
  return starts;
}

std::int64_t threads_of(const ffi::ThreadPool& pool) {
  return std::max<std::int64_t>(1, pool.num_threads());
}

// Images with fewer elements than this are left to one thread.
constexpr std::int64_t kGrain = 1 << 14;

// Rows `from` ... `to` of pair or image number i. `above`: U above them, or null for none.
template <int M>
struct Band {
  std::int64_t i;
  Source images[M];
  vec* above;
  std::int64_t from, to;
};

// `count` pairs or images of M each, cut into bands of rows so that there is work for all threads,
// `together` of which share a band. sources(i, m) is an image of number i.
template <Kind kind, int M, class Sources>
std::vector<Band<M>> bands_of(ffi::ThreadPool& pool, const Geometry& g, const Neighbors& neighbors,
                              std::int64_t count, const Sources& sources, int together,
                              std::vector<Array<vec>>& above) {
  const std::int64_t threads = threads_of(pool), groups = (threads + together - 1) / together;
  std::int64_t cuts = (groups + count - 1) / count;
  cuts = std::min({cuts, g.height, std::max<std::int64_t>(1, M * g.size() / kGrain)});
  const std::vector<std::int64_t> starts = cut(g.height, cuts);
  std::vector<Band<M>> bands;
  for (std::int64_t i = 0; i < count; ++i) {
    Band<M> band{i};
    for (int m = 0; m < M; ++m) band.images[m] = sources(i, m);
    above.push_back(rows_above<kind, M>(pool, threads, g, neighbors, band.images, starts));
    for (std::int64_t b = 0; b < cuts; ++b) {
      band.above = b ? above.back().get() + (b - 1) * M * g.row_vectors() : nullptr;
      band.from = starts[b], band.to = starts[b + 1];
      bands.push_back(band);
    }
  }
  return bands;
}

// consume(i) gives what `walk` calls for number i.
template <Kind kind, int M, class Sources, class Consume>
void walk_all(ffi::ThreadPool& pool, const Geometry& g, const Neighbors& neighbors,
              std::int64_t count, const Sources& sources, const Consume& consume) {
  std::vector<Array<vec>> above;
  const auto bands = bands_of<kind, M>(pool, g, neighbors, count, sources, 1, above);
  in_parallel(pool, threads_of(pool), bands.size(), [&](std::int64_t task) {
    const Band<M>& band = bands[task];
    walk<kind, M>(g, neighbors, band.images, band.above, band.from, band.to, consume(band.i));
  });
}

// The adjoint: rows bottom to top of one image, its state kept from call to call.
class Adjoint {
 public:
  // `left`: for the weights' cotangent, or null, and what that is multiplied with.
  Adjoint(const Geometry& g, const Neighbors& neighbors, const real* left, const real* right,
          const real* weights, real* image, real* of_weights, real factor)
      : g_(g), neighbors_(neighbors), factor_(factor), left_(left), right_(right),
        weights_(weights), image_(image), of_weights_(of_weights),
        sums_(g, nullptr), vectors_(g), features_(g) {
    if (image != nullptr) std::fill(image, image + g.size(), real(0));
  }

  // Rows to - 1 down to `from`.
  void rows(const Vectors& vectors, std::int64_t from, std::int64_t to) {
    vec moments[V * L];
    for (std::int64_t h = to; h-- > from;) {
      sums_.start_row();
      for (std::int64_t s = 0; s < g_.segments; ++s) {
        const int pixels = g_.pixels(s), elements = pixels * g_.channels;
        const std::int64_t w = g_.width - s * g_.segment - pixels;
        vectors.fill(g_, h, w, pixels, vectors_);
        sums_.segment(s, vectors_.left.get(), vectors_.right.get());
        neighbors_.features(right_, h, w, pixels, true, features_.right.get());
        if (of_weights_ != nullptr && left_ != right_)
          neighbors_.features(left_, h, w, pixels, true, features_.left.get());
        for (int group = 0; group * L < elements; ++group) {
          planes_of(sums_.total(), g_.room, group, moments);
          // The last element of the group in reverse is the first in the image.
          const std::int64_t last = (w + pixels) * g_.channels - 1 - group * L;
          pull(moments, group, h, last, std::min(L, elements - group * L));
        }
      }
      sums_.end_row();
    }
  }

 private:
  static LASI_APART void planes(const real* features, vec* out) {
    vec rows[L];
    for (int i = 0; i < F; i += L) {
      for (int j = 0; j < L; ++j) rows[j] = load(features + j * F + i);
      transpose(rows, out + i);
    }
  }

  LASI_APART void pull(const vec* moments, int group, std::int64_t h, std::int64_t last,
                       int count) {
    vec psi[F], pulled[F];
    planes(features_.right.get() + group * L * F, psi);
    LASI_UNROLL
    for (int i = 0; i < N; ++i) pulled[i] = g_.decay * row_times(moments, i, psi, psi[N]);
    vec sum = {};
    LASI_UNROLL
    for (int k = 0; k < N; ++k) sum += moments[at(k, N)] * psi[k];
    pulled[N] = g_.decay * sum;
    for (int i = N + 1; i < F; ++i) pulled[i] = vec{};
    const std::int64_t row = h * g_.row;
    if (of_weights_ != nullptr) {
      const bool same = left_ == right_;
      if (!same) planes(features_.left.get() + group * L * F, psi);
      vec sum = {};
      for (int i = 0; i <= N; ++i) sum += pulled[i] * psi[i];
      real y[L];
      store(y, sum);
      for (int j = 0; j < count; ++j)
        of_weights_[row + last - j] = factor_ * y[j];
    }
    if (image_ == nullptr) return;
    scatter(pulled, h, last, count);
  }

  LASI_APART void scatter(const vec* pulled, std::int64_t h, std::int64_t last, int count) {
    const std::int64_t row = h * g_.row;
    vec rows[F / L][L];
    for (int i = 0; i < F / L; ++i) transpose(pulled + i * L, rows[i]);
    for (int j = 0; j < count; ++j) {
      const std::int64_t e = last - j, w = e / g_.channels;
      const std::int64_t* offset = neighbors_.of(h, w) + (e - w * g_.channels) * N;
      real q[F];
      for (int i = 0; i < F / L; ++i) store(q + i * L, rows[i][j]);
      real* own = image_ + row + e;
      const real weight = weights_ == nullptr ? real(1) : weights_[row + e];
      *own += weight * q[N];
      for (int k = 0; k < N; ++k)
        if (offset[k]) own[offset[k]] += weight * q[k];
    }
  }

  const Geometry& g_;
  const Neighbors& neighbors_;
  const real factor_;
  const real *left_, *right_, *weights_;
  real *image_, *of_weights_;
  Sums<Kind::kMixed> sums_;
  Features vectors_, features_;
};

// ---- What a caller sees: buffers (images, [N,] height, width, channels).

using Buffer = ffi::Buffer<ffi::DataType(LASI_TYPE)>;
using Result = ffi::Result<Buffer>;
using Steps = ffi::Buffer<ffi::S32>;

// An empty buffer stands for one that is not given, or not wanted.
struct Many {
  real* data = nullptr;
  std::int64_t each = 0;
  explicit Many(const Buffer& buffer) {
    if (buffer.element_count() == 0) return;
    data = const_cast<real*>(buffer.typed_data());
    each = buffer.element_count() / buffer.dimensions()[0];
  }
  real* operator[](std::int64_t i) const { return data == nullptr ? nullptr : data + i * each; }
};

// x and y of every pair, which share their weights.
struct PairsOfImages {
  Many x, y, weights;
  Source operator()(std::int64_t i, int m) const {
    return Source{(m ? y : x)[i], nullptr, weights[i]};
  }
};

struct Call {
  Call(const Call&) = delete;  // `neighbors` refers to `g`
  std::int64_t count;
  Geometry g;
  Neighbors neighbors;
  real ridge, prior;

  Call(const Buffer& image, const Steps& steps, double decay, double ridge = 0, double prior = 0)
      : count(image.dimensions()[0]),
        g(image.dimensions()[1], image.dimensions()[2], image.dimensions()[3], decay),
        neighbors(g, steps.typed_data(), steps.dimensions()[0], steps.dimensions()[1]),
        ridge(ridge / decay), prior(ridge / decay * prior / N) {}
};

// body(), and what it cannot allocate as an error.
template <class Body>
ffi::Error guarded(const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "LASI found no memory for its rows");
  }
  return ffi::Error::Success();
}

// theta, or A^{-1} right where `right` is given.
ffi::Error Solve(ffi::ThreadPool pool, Buffer image, Buffer right, Buffer weights, Steps steps,
                 double decay, double ridge, double prior, Result out) {
  return guarded([&] {
    const Call call(image, steps, decay, ridge, prior);
    const Geometry& g = call.g;
    const Many images(image), masks(weights), rights(right), outs(*out);
    walk_all<kKind, 1>(
        pool, g, call.neighbors, call.count,
        [&](std::int64_t i, int) { return Source{images[i], nullptr, masks[i]}; },
        [&](std::int64_t i) {
          return [&, i](std::int64_t h, std::int64_t e, int count, vec(*moments)[V * L]) {
            vec inverse[1][N], x[1][N];
            const std::int64_t place = h * g.row + e;
            const bool given = rights.data != nullptr;
            if (given) {
              load_planes(rights[i] + place, g.size(), count, x[0]);
              // A lacks a factor d here, so its inverse has one too many.
              for (int k = 0; k < N; ++k) moments[0][at(k, N)] = x[0][k] * (1 / g.decay);
            }
            solve<1>(moments, inverse, x, call.ridge, given ? 0 : call.prior);
            store_planes(outs[i] + place, g.size(), count, x[0]);
          };
        });
  });
}

// Work that several threads share: each does what can be done next, until nothing is left.
class Shared {
 public:
  virtual ~Shared() = default;
  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    try {
      while (!failed_ && step(lock)) {
      }
    } catch (const std::bad_alloc&) {
      if (!lock.owns_lock()) lock.lock();
      failed_ = true;  // nobody waits for what will not be done
      changed_.notify_all();
      throw;
    }
  }

 protected:
  // Does what can be done next, the lock released meanwhile, or waits until something can; false
  // if all is done.
  virtual bool step(std::unique_lock<std::mutex>& lock) = 0;

  std::condition_variable changed_;

 private:
  std::mutex mutex_;
  bool failed_ = false;
};

// The map of a band of a pair: two threads walk along an image each, and whoever comes second
// compares.
class MappedPair : public Shared {
 public:
  MappedPair(const Call& call, const Band<2>& band, real* map)
      : call_(call), g_(call.g), map_(map), begin_(band.from * g_.segments),
        end_(band.to * g_.segments),
        chunks_((end_ - begin_ + kSteps - 1) / kSteps) {
    for (int m = 0; m < 2; ++m) {
      vec* above = band.above == nullptr ? nullptr : band.above + m * g_.row_vectors();
      walks_.emplace_back(new Walk<kKind, 1>(g_, call.neighbors, band.images + m, above));
      units_.push_back(allocate<vec>(kRing * room()));
    }
  }

 private:
  // Segments at a time; times that one image may be ahead of the other.
  static constexpr int kSteps = 16, kRing = 16;

  bool step(std::unique_lock<std::mutex>& lock) override {
    if (compared_ == chunks_) return false;
    for (int m = 0; m < 2; ++m) {
      if (busy_[m] || walked_[m] == chunks_ || walked_[m] == compared_ + kRing) continue;
      const std::int64_t chunk = walked_[m];
      busy_[m] = true;
      lock.unlock();
      walk_along(m, chunk);
      lock.lock();
      ++walked_[m];
      if (walked_[1 - m] >= walked_[m]) {
        lock.unlock();
        compare(chunk);
        lock.lock();
        ++compared_;
      }
      busy_[m] = false;
      changed_.notify_all();
      return true;
    }
    changed_.wait(lock);
    return true;
  }

  std::int64_t room() const { return std::int64_t(kSteps) * g_.room / L * N; }
  vec* unit(int m, std::int64_t chunk) const { return units_[m].get() + chunk % kRing * room(); }

  // visit(h, s, elements) for every segment of a chunk.
  template <class Visit>
  void each_segment(std::int64_t chunk, const Visit& visit) const {
    const std::int64_t first = begin_ + chunk * kSteps;
    for (std::int64_t i = first; i < std::min(first + kSteps, end_); ++i) {
      const std::int64_t h = i / g_.segments, s = i % g_.segments;
      visit(h, s, g_.pixels(s) * int(g_.channels));
    }
  }

  // The embeddings of an image, two groups of elements at once.
  void walk_along(int m, std::int64_t chunk) {
    vec moments[2][V * L] = {}, inverse[2][N], theta[2][N];
    vec* out = unit(m, chunk);
    int held = 0;
    const auto solve_held = [&] {
      solve<2>(moments, inverse, theta, call_.ridge, call_.prior);
      for (int i = 0; i < held; ++i) {
        normalize(theta[i]);
        out = std::copy(theta[i], theta[i] + N, out);
      }
      held = 0;
    };
    each_segment(chunk, [&](std::int64_t h, std::int64_t s, int elements) {
      walks_[m]->segment(h, s);
      for (int group = 0; group * L < elements; ++group) {
        walks_[m]->planes(group, moments + held);
        if (++held == 2) solve_held();
      }
    });
    if (held) solve_held();
  }

  void compare(std::int64_t chunk) {
    const vec *of_x = unit(0, chunk), *of_y = unit(1, chunk);
    each_segment(chunk, [&](std::int64_t h, std::int64_t s, int elements) {
      real* out = map_ + h * g_.row + s * g_.segment * g_.channels;
      for (int e = 0; e < elements; e += L, of_x += N, of_y += N)
        store_some(out + e, separation(of_x, of_y), std::min(L, elements - e));
    });
  }

  const Call& call_;
  const Geometry& g_;
  real* map_;
  const std::int64_t begin_, end_, chunks_;  // segments; how many chunks
  std::vector<std::unique_ptr<Walk<kKind, 1>>> walks_;
  std::vector<Array<vec>> units_;
  bool busy_[2] = {};
  std::int64_t walked_[2] = {}, compared_ = 0;  // chunks
};

// The embeddings' distance at every element of two images.
ffi::Error Map(ffi::ThreadPool pool, Buffer x, Buffer y, Buffer weights, Steps steps, double decay,
               double ridge, double prior, Result out) {
  return guarded([&] {
    const Call call(x, steps, decay, ridge, prior);
    const PairsOfImages pairs{Many(x), Many(y), Many(weights)};
    const Many outs(*out);
    const Geometry& g = call.g;
    std::vector<Array<vec>> above;
    const auto bands = bands_of<kKind, 2>(pool, g, call.neighbors, call.count, pairs, 2, above);
    const auto map_of = [&](std::int64_t task) {
      return std::make_unique<MappedPair>(call, bands[task], outs[bands[task].i]);
    };
    const std::int64_t threads = threads_of(pool), count = bands.size();
    if (count >= threads || g.size() < kGrain)
      return in_parallel(pool, threads, count, [&](std::int64_t task) { map_of(task)->help(); });
    std::vector<std::unique_ptr<MappedPair>> maps;
    for (std::int64_t task = 0; task < count; ++task) maps.push_back(map_of(task));
    in_parallel(pool, threads, 2 * count, [&](std::int64_t task) { maps[task % count]->help(); });
  });
}

// theta of x and y from their moments, the distance of their embeddings, and lambda of both.
LASI_APART vec solve_pair(vec (*moments)[V * L], real ridge, real prior, real decay,
                          vec (*theta)[N], vec (*adjoint)[N]) {
  vec inverse[2][N], unit[2][N], inverse_norm[2];
  solve<2>(moments, inverse, theta, ridge, prior);
  for (int m = 0; m < 2; ++m) {
    for (int k = 0; k < N; ++k) unit[m][k] = theta[m][k];
    inverse_norm[m] = normalize(unit[m]);
  }
  const vec apart = separation(unit[0], unit[1]);
  // 0 where the embeddings coincide. A lacks a factor d here, so its inverse has one too many.
  const vec one_over = apart == vec{} ? vec{} : real(1) / (decay * apart);
  for (int m = 0; m < 2; ++m) {
    vec along = {};
    for (int k = 0; k < N; ++k) {
      adjoint[m][k] = (unit[m][k] - unit[1 - m][k]) * one_over;
      along += adjoint[m][k] * unit[m][k];
    }
    for (int k = 0; k < N; ++k)
      adjoint[m][k] = (adjoint[m][k] - along * unit[m][k]) * inverse_norm[m];
    solve_again(moments[m], inverse[m], adjoint[m]);
  }
  return apart;
}

// The map, theta of x and y, and lambda of both.
ffi::Error Solved(ffi::ThreadPool pool, Buffer x, Buffer y, Buffer weights, Steps steps,
                  double decay, double ridge, double prior, Result map, Result theta_x,
                  Result theta_y, Result adjoint_x, Result adjoint_y) {
  return guarded([&] {
    const Call call(x, steps, decay, ridge, prior);
    const Geometry& g = call.g;
    const PairsOfImages pairs{Many(x), Many(y), Many(weights)};
    const Many maps(*map);
    const Many thetas[2] = {Many(*theta_x), Many(*theta_y)};
    const Many adjoints[2] = {Many(*adjoint_x), Many(*adjoint_y)};
    walk_all<kKind, 2>(
        pool, g, call.neighbors, call.count, pairs,
        [&](std::int64_t i) {
          return [&, i](std::int64_t h, std::int64_t e, int count, vec(*moments)[V * L]) {
            vec theta[2][N], adjoint[2][N];
            const std::int64_t place = h * g.row + e;
            const vec apart =
                solve_pair(moments, call.ridge, call.prior, g.decay, theta, adjoint);
            store_some(maps[i] + place, apart, count);
            for (int m = 0; m < 2; ++m) {
              store_planes(thetas[m][i] + place, g.size(), count, theta[m]);
              store_planes(adjoints[m][i] + place, g.size(), count, adjoint[m]);
            }
          };
        });
  });
}

// The mixed moments of two images times vectors.
ffi::Error ApplyMoments(ffi::ThreadPool pool, Buffer left, Buffer right, Buffer vectors,
                        Buffer weights, Steps steps, double decay, double own, Result out) {
  return guarded([&] {
    const Call call(left, steps, decay);
    const Geometry& g = call.g;
    const Many lefts(left), rights(right), masks(weights), vs(vectors), outs(*out);
    walk_all<Kind::kMixed, 1>(
        pool, g, call.neighbors, call.count,
        [&](std::int64_t i, int) { return Source{rights[i], lefts[i], masks[i]}; },
        [&](std::int64_t i) {
          return [&, i](std::int64_t h, std::int64_t e, int count, vec(*moments)[V * L]) {
            const std::int64_t place = h * g.row + e;
            vec v[N], product[N];
            load_planes(vs[i] + place, g.size(), count, v);
            LASI_UNROLL
            for (int k = 0; k < N; ++k)
              product[k] = g.decay * row_times(moments[0], k, v, filled(own));
            store_planes(outs[i] + place, g.size(), count, product);
          };
        });
  });
}

// The cotangents of `left` and of the weights, from u and v.
ffi::Error Pull(ffi::ThreadPool pool, Buffer left, Buffer right, Buffer u, Buffer v,
                Buffer weights, Steps steps, double decay, double own, Result image,
                Result of_weights) {
  return guarded([&] {
    const Call call(right, steps, decay);
    const Geometry& g = call.g;
    const Many lefts(left), rights(right), masks(weights), us(u), vs(v);
    const Many images(*image), weight_outs(*of_weights);
    const std::int64_t threads = threads_of(pool);
    in_parallel(pool, threads, call.count, [&](std::int64_t i) {
      Adjoint adjoint(g, call.neighbors, lefts[i], rights[i], masks[i], images[i],
                      weight_outs[i], real(1));
      adjoint.rows(Vectors{us[i], vs[i], g.size(), 0, real(own)}, 0, g.height);
    });
  });
}

// What is kept of a pair's bands until they are pulled back, and of U above all bands.
constexpr std::int64_t kRingBytes = std::int64_t(8) << 20, kAboveBytes = std::int64_t(144) << 20;

// The map of a pair, and what a cotangent of it gives for x, y and the weights. Bands of rows are
// solved from the bottom to the top, and pulled back in this order, each image by itself, while
// the bands above are solved: a thread takes whatever can be done next.
class PulledPair : public Shared {
 public:
  PulledPair(ffi::ThreadPool& pool, int threads, const Call& call, const Source* sources,
             const real* cotangent, real* map, real* const* images, real* of_weights)
      : call_(call), g_(call.g), sources_(sources), cotangent_(cotangent), map_(map) {
    if (of_weights != nullptr) more_ = allocate<real>(g_.size());
    for (int m = 0; m < 2; ++m) {
      if (images[m] == nullptr && of_weights == nullptr) continue;
      number_.push_back(m);
      adjoints_.emplace_back(new Adjoint(
          g_, call.neighbors, sources[m].values, sources[m].values, sources[m].weights, images[m],
          of_weights == nullptr || m == 0 ? of_weights : more_.get(),
          real(0.5)));  // an image's products with itself count twice
    }
    // A band waits for those below it and for a place in the ring, which should fit into a cache;
    // several threads need many bands; but every band costs U above it.
    ring_ = threads == 1 ? 1 : threads + 2;
    const std::int64_t kept = number_.size() * 2 * N * g_.row * sizeof(real);
    std::int64_t rows = kRingBytes / (ring_ * kept);
    if (threads > 1) rows = std::min(rows, g_.height / (8 * threads));
    const std::int64_t all_above = 2 * sizeof(vec) * g_.row_vectors() * g_.height;
    rows = std::max(rows, all_above / kAboveBytes);
    rows = std::min(std::max<std::int64_t>(1, rows), g_.height);
    bands_ = (g_.height + rows - 1) / rows;
    starts_ = cut(g_.height, bands_);
    above_ = rows_above<kKind, 2>(pool, threads, g_, call.neighbors, sources, starts_);
    plane_ = (rows + 1) * g_.row;
    room_ = allocate<real>(ring_ * number_.size() * 2 * N * plane_);
    solving_ = bands_ - 1;
    solved_.assign(bands_, false);
    pulling_.assign(number_.size(), bands_ - 1);
    busy_.assign(number_.size(), false);
    in_parallel(pool, threads, threads, [this](std::int64_t) { help(); });
    if (of_weights != nullptr)
      for (std::int64_t i = 0; i < g_.size(); ++i) of_weights[i] += more_[i];
  }

 private:
  bool step(std::unique_lock<std::mutex>& lock) override {
    const std::int64_t lowest = *std::max_element(pulling_.begin(), pulling_.end());
    if (lowest < 0) return false;
    std::size_t a = 0;
    while (a < number_.size() && (busy_[a] || pulling_[a] < 0 || !solved_[pulling_[a]])) ++a;
    if (a < number_.size()) {
      busy_[a] = true;
      lock.unlock();
      pull(pulling_[a], a);
      lock.lock();
      busy_[a] = false;
      --pulling_[a];
    } else if (solving_ >= 0 && solving_ > lowest - ring_) {
      const std::int64_t band = solving_--;
      lock.unlock();
      solve_band(band);
      lock.lock();
      solved_[band] = true;
    } else {
      changed_.wait(lock);
      return true;
    }
    changed_.notify_all();
    return true;
  }

  // N planes of a band: of theta or u, for an image that is asked for.
  real* part(std::int64_t band, std::size_t a, int which) const {
    return room_.get() + ((band % ring_ * number_.size() + a) * 2 + which) * N * plane_;
  }

  void solve_band(std::int64_t band) {
    vec* row = band ? above_.get() + (band - 1) * 2 * g_.row_vectors() : nullptr;
    const std::int64_t start = starts_[band] * g_.row;
    walk<kKind, 2>(
        g_, call_.neighbors, sources_, row, starts_[band], starts_[band + 1],
        [&](std::int64_t h, std::int64_t e, int count, vec(*moments)[V * L]) {
          vec theta[2][N], adjoint[2][N];
          const std::int64_t place = h * g_.row + e;
          const vec apart = solve_pair(moments, call_.ridge, call_.prior, g_.decay, theta, adjoint);
          store_some(map_ + place, apart, count);
          const vec scale = -load_some(cotangent_ + place, count);
          for (std::size_t a = 0; a < number_.size(); ++a) {
            const int m = number_[a];
            for (int k = 0; k < N; ++k) adjoint[m][k] *= scale;
            store_planes(part(band, a, 0) + place - start, plane_, count, theta[m]);
            store_planes(part(band, a, 1) + place - start, plane_, count, adjoint[m]);
          }
        });
  }

  void pull(std::int64_t band, std::size_t a) {
    const Vectors vectors{part(band, a, 1), part(band, a, 0), plane_, starts_[band], real(-1)};
    adjoints_[a]->rows(vectors, starts_[band], starts_[band + 1]);
  }

  const Call& call_;
  const Geometry& g_;
  const Source* sources_;
  const real* cotangent_;
  real* map_;
  std::vector<int> number_;  // of the images that are asked for
  std::vector<std::unique_ptr<Adjoint>> adjoints_;
  Array<real> more_, room_;
  Array<vec> above_;
  std::int64_t ring_, bands_, plane_;
  std::vector<std::int64_t> starts_;

  std::int64_t solving_;               // the next band to solve
  std::vector<char> solved_, busy_;    // bands; images
  std::vector<std::int64_t> pulling_;  // the next band to pull back, of each image
};

ffi::Error Pulled(ffi::ThreadPool pool, Buffer x, Buffer y, Buffer cotangent, Buffer weights,
                  Steps steps, double decay, double ridge, double prior, Result map, Result of_x,
                  Result of_y, Result of_weights) {
  return guarded([&] {
    const Call call(x, steps, decay, ridge, prior);
    const PairsOfImages pairs{Many(x), Many(y), Many(weights)};
    const Many cotangents(cotangent), maps(*map);
    const Many x_outs(*of_x), y_outs(*of_y), weight_outs(*of_weights);
    const std::int64_t threads = threads_of(pool);
    const bool together = call.count < threads && call.g.size() >= kGrain;
    in_parallel(pool, together ? 1 : threads, call.count, [&](std::int64_t i) {
      const Source sources[2] = {pairs(i, 0), pairs(i, 1)};
      real* const images[2] = {x_outs[i], y_outs[i]};
      PulledPair(pool, together ? threads : 1, call, sources, cotangents[i], maps[i], images,
                 weight_outs[i]);
    });
  });
}

}  // namespace

#define LASI_BUFFERS_2 .Arg<Buffer>().Arg<Buffer>()
#define LASI_BUFFERS_3 LASI_BUFFERS_2.Arg<Buffer>()
#define LASI_BUFFERS_4 LASI_BUFFERS_2 LASI_BUFFERS_2
#define LASI_BUFFERS_5 LASI_BUFFERS_4.Arg<Buffer>()
#define LASI_RESULTS_2 .Ret<Buffer>().Ret<Buffer>()
#define LASI_RESULTS_4 LASI_RESULTS_2 LASI_RESULTS_2
#define LASI_SYSTEM .Attr<double>("decay").Attr<double>("ridge").Attr<double>("prior")
#define LASI_SUMS .Attr<double>("decay").Attr<double>("own")
#define LASI_HANDLER(function, signature) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(lasi, function, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() signature)

// One handler to a library: a user waits for what is called alone.
#if defined(LASI_SOLVE)
LASI_HANDLER(Solve, LASI_BUFFERS_3.Arg<Steps>() LASI_SYSTEM.Ret<Buffer>());
#elif defined(LASI_MAP)
LASI_HANDLER(Map, LASI_BUFFERS_3.Arg<Steps>() LASI_SYSTEM.Ret<Buffer>());
#elif defined(LASI_SOLVED)
LASI_HANDLER(Solved, LASI_BUFFERS_3.Arg<Steps>() LASI_SYSTEM LASI_RESULTS_4.Ret<Buffer>());
#elif defined(LASI_APPLY_MOMENTS)
LASI_HANDLER(ApplyMoments, LASI_BUFFERS_4.Arg<Steps>() LASI_SUMS.Ret<Buffer>());
#elif defined(LASI_PULL)
LASI_HANDLER(Pull, LASI_BUFFERS_5.Arg<Steps>() LASI_SUMS LASI_RESULTS_2);
#elif defined(LASI_PULLED)
LASI_HANDLER(Pulled, LASI_BUFFERS_4.Arg<Steps>() LASI_SYSTEM LASI_RESULTS_4);
#endif
