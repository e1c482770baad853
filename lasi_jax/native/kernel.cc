// LASI on a CPU: the moments, the solves and their adjoints of a row at a time, in vectors.
//
// Compiled for one neighbourhood size N and one precision, at first use; see build.py. In the
// words of wls/derivatives.py, every element t of an image has N (N + 3) / 2 moments, sums over the
// earlier elements j of products of the neighbours' values and the element's own, with weights
// decay^|j - t|.
//
// A row is cut into blocks, and a block into as many pieces as a vector has lanes: lane l holds the
// pixels of the l-th piece, one behind the other. So the recursions along the row are those of
// L pieces at once, every moment by itself, and L elements are solved at once.
//
// How the sums of a row are formed, with d the decay, w a pixel and c a channel of it: p is the sum
// over the channels before and c itself, e the sum over all channels of the pixel, and
//
//     U_h(w) = e_h(w) + d U_{h-1}(w)      straight up, this row included
//     Z(w)   = U_h(w) + d Z(w-1)          that, and all of it to the left
//     G(w)   = U_{h-1}(w) + d G(w+1)      straight above, and above to the right
//     total  = d (p(c-1) + Z(w-1) + G(w)).
//
// The last factor d is left out; the ridge is divided by it instead. Only U is kept for a whole
// row. What arrives in a piece from the others is a recursion over the lanes. Z from the left is
// known when the block is done, and is added when its elements are solved. G from the right is
// known beforehand: with e in the place of U it was summed when the row above was walked.

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

constexpr int P = N * (N + 3) / 2;  // moments
constexpr int kPitch = P | 1;

#if LASI_N <= 16
#define LASI_UNROLL _Pragma("GCC unroll 64")
#else
#define LASI_UNROLL _Pragma("GCC unroll 1")
#endif
#define LASI_INLINE inline __attribute__((always_inline))
#define LASI_APART __attribute__((noinline))

// The place of the moment of i <= k among all.
constexpr int at(int i, int k) { return i * (N + 1) - i * (i - 1) / 2 + (k - i); }

// Which two features each moment is the product of.
struct Pairs {
  int row[P] = {};
  int column[P] = {};
  constexpr Pairs() {
    for (int i = 0; i < N; ++i)
      for (int k = i; k <= N; ++k) row[at(i, k)] = i, column[at(i, k)] = k;
  }
};
constexpr Pairs kPairs;

// What a moment's example is: phi_i phi_k; the same with weighted features on the left; or
// left_i right_k + left_k right_i.
enum class Kind { kSquare, kWeighted, kMixed };

// What the library is compiled for: images of this many channels, 0 for any; with weights or not.
constexpr int kChannels = LASI_CHANNELS;
constexpr int kKnown = kChannels ? kChannels : 1;
constexpr Kind kKind = LASI_WEIGHTED ? Kind::kWeighted : Kind::kSquare;

// ---- Vectors.

LASI_INLINE vec load(const real* p) {
  vec x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
LASI_INLINE void store(real* p, vec x) { std::memcpy(p, &x, sizeof x); }
LASI_INLINE vec filled(real x) { return vec{} + x; }

typedef std::conditional_t<sizeof(real) == 4, std::int32_t, std::int64_t> index;
typedef index indices __attribute__((vector_size(kVectorBytes)));

template <class Index, std::size_t... I>
LASI_INLINE vec shuffled(vec a, vec b, std::index_sequence<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Index::of(I)...);
#else
  return __builtin_shuffle(a, b, indices{Index::of(I)...});
#endif
}

// Lane j of the result is entry Index::of(j) of a and b side by side.
template <class Index>
LASI_INLINE vec shuffle(vec a, vec b) {
  return shuffled<Index>(a, b, std::make_index_sequence<L>());
}

struct Backward {
  static constexpr int of(int lane) { return L - 1 - lane; }
};
LASI_INLINE vec reversed(vec x) { return shuffle<Backward>(x, x); }

template <int n, bool up>
struct Shift {  // where nothing arrives, the first lane of what is shuffled with
  static constexpr int of(int lane) {
    const int from = up ? lane - n : lane + n;
    return from >= 0 && from < L ? L + from : 0;
  }
};

// y_l = x_l + r y_{l-1}, or y_{l+1} if not `up`. `powers`: r, r^2, r^4, ...
template <bool up, int n = 1>
LASI_INLINE vec scan(const real* powers, vec x) {
  if constexpr (n < L)
    return scan<up, 2 * n>(powers + 1, x + *powers * shuffle<Shift<n, up>>(vec{}, x));
  return x;
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

// ---- A row by lanes.

// Vectors of a block for one moment, at most and at least where there are many moments, and bytes
// for all of them: short pieces cost recursions over the lanes, long ones the cache.
constexpr std::int64_t kColumn = 48, kLeastColumn = 12, kBlockBytes = std::int64_t(1) << 18;

// Lane l of block b holds `stride` pixels of a row, from (b L + l) stride on; elements of a lane
// are numbered through pixels and channels. What would be beyond the end of the row is padding.
struct Geometry {
  std::int64_t height, width, channels, row;  // row = width * channels
  int stride;           // pixels of a lane
  std::int64_t blocks;  // of a row
  int column;           // elements of a lane: vectors of a block
  int pitch;            // vectors from moment to moment: odd, for different places in a cache
  real decay;
  std::vector<real> powers;  // of the decay: 0 ... stride
  std::vector<real> steps;   // of what a lane decays by: 1, 2, 4, ...
  vec from_left, from_right;  // what arrives at a block's side decays to a lane's other end

  Geometry(std::int64_t height, std::int64_t width, std::int64_t channels, double decay)
      : height(height), width(width), channels(channels), row(width * channels), decay(decay) {
    const std::int64_t fit = kBlockBytes / std::int64_t(P * sizeof(vec));
    const std::int64_t vectors = std::min(std::max(fit, kLeastColumn), kColumn);
    const std::int64_t most = std::max<std::int64_t>(1, vectors / channels);  // pixels of a lane
    blocks = (width + L * most - 1) / (L * most);
    stride = (width + L * blocks - 1) / (L * blocks);
    column = stride * channels;
    pitch = column | 1;
    for (int i = 0; i <= stride; ++i) powers.push_back(std::pow(decay, i));
    for (int n = 1; n < L; n *= 2) steps.push_back(std::pow(decay, n * stride));
    for (int l = 0; l < L; ++l) {
      from_left[l] = std::pow(decay, (l + 1) * stride);
      from_right[l] = std::pow(decay, (L - l) * stride);
    }
  }
  std::int64_t size() const { return height * row; }
  std::int64_t lanes() const { return blocks * L; }
  // The channels, as a constant where the library is compiled for them.
  int known_channels() const { return kChannels ? kChannels : channels; }
  // Elements of a lane, of all blocks, that are in the image.
  int elements(std::int64_t lane) const {
    return std::min(std::max<std::int64_t>(0, row - lane * column), std::int64_t(column));
  }
  // Vectors of U of a whole row.
  std::int64_t row_vectors() const { return blocks * P * pitch; }
  int block_size() const { return column * L; }
};

// A block of a row of an image, (column, L); 0 in the padding.
void to_lanes(const Geometry& g, std::int64_t block, const real* row, real* out) {
  for (int l = 0; l < L; ++l) {
    const std::int64_t lane = block * L + l;
    const int elements = g.elements(lane);
    const real* from = row + lane * g.column;
    for (int j = 0; j < elements; ++j) out[j * L + l] = from[j];
    for (int j = elements; j < g.column; ++j) out[j * L + l] = real(0);
  }
}

void from_lanes(const Geometry& g, std::int64_t block, const real* in, real* row) {
  for (int l = 0; l < L; ++l) {
    const std::int64_t lane = block * L + l;
    const int elements = g.elements(lane);
    real* to = row + lane * g.column;
    for (int j = 0; j < elements; ++j) to[j] = in[j * L + l];
  }
}

// Some rows of an image, (column, all lanes): neighbours in other lanes are a shift away.
class Rows {
 public:
  // `reach`: rows that are kept above one. `first` ... `last`: the lanes that are read.
  Rows(const Geometry& g, std::int64_t reach, std::int64_t pad, std::int64_t first,
       std::int64_t last)
      : g_(g), slots_(reach + 1), width_(g.lanes() + 2 * pad), pad_(pad),
        first_(std::max<std::int64_t>(0, first - pad)), last_(std::min(g.lanes(), last + pad)),
        held_(slots_, -1), rows_(zeros<real>(slots_ * g.column * width_)) {}

  // The first lane of the first element of row h, and what is between elements.
  real* row(std::int64_t h) const {
    return rows_.get() + h % slots_ * g_.column * width_ + pad_;
  }
  std::int64_t width() const { return width_; }

  // Reads row h and those above it, where they are not there.
  void read(const real* image, std::int64_t h) {
    for (std::int64_t r = std::max<std::int64_t>(0, h - slots_ + 1); r <= h; ++r) {
      if (held_[r % slots_] == r) continue;
      held_[r % slots_] = r;
      for (std::int64_t lane = first_; lane < last_; ++lane) {
        const int elements = g_.elements(lane);
        const real* from = image + r * g_.row + lane * g_.column;
        real* to = row(r) + lane;
        for (int j = 0; j < elements; ++j) to[j * width_] = from[j];
      }
    }
  }

  // Adds row h to that of an image, and forgets it.
  void flush(std::int64_t h, real* image) {
    for (std::int64_t lane = 0; lane < g_.lanes(); ++lane) {
      const int elements = g_.elements(lane);
      const real* from = row(h) + lane;
      real* to = image + h * g_.row + lane * g_.column;
      for (int j = 0; j < elements; ++j) to[j] += from[j * width_];
    }
    std::fill_n(row(h) - pad_, g_.column * width_, real(0));
  }

 private:
  const Geometry& g_;
  std::int64_t slots_, width_, pad_, first_, last_;
  std::vector<std::int64_t> held_;
  Array<real> rows_;
};

// ---- Where the neighbours are.

class Neighbors {
 public:
  // `steps`: (row, pixel, channel) to each neighbour, all 0 where it is missing, for the first rows
  // and for the pixels of a row that is as narrow as shows both of its ends.
  Neighbors(const Geometry& g, const std::int32_t* steps, std::int64_t kinds, std::int64_t columns)
      : g_(g), kinds_(kinds), columns_(columns),
        steps_(steps, steps + kinds * columns * g.channels * N * 3) {
    find_inside();
    find_places();
    find_lanes();
  }

  Rows rows(std::int64_t first, std::int64_t last) const {
    return Rows(g_, reach_, pad_, first, last);
  }
  Rows rows() const { return rows(0, g_.lanes()); }

  // The pixels of all lanes of a block that are the i-th of their lane.
  struct Lanes {
    std::vector<int> others;  // those with neighbours of their own
    bool any;                 // whether any has the neighbours of most pixels
    vec usual;                // 1 where this is so
    vec inside;               // 1 where there is a pixel
  };
  const Lanes& lanes(std::int64_t h, std::int64_t block, int i) const {
    return lanes_[h < kinds_ - 1][block * g_.stride + i];
  }

  // visit(k, offset) for the neighbours of an element, relative to it in the image.
  template <class Visit>
  LASI_INLINE void each_neighbor(std::int64_t h, std::int64_t w, int c, const Visit& visit) const {
    const std::int32_t* step = of(h, w) + c * N * 3;
    for (int k = 0; k < N; ++k, step += 3)
      if (is_there(step))
        visit(k, step[0] * g_.row + step[1] * g_.channels + step[2]);
  }

  // Row h of `rows` and those above it.
  struct Above {
    real* row[N + 1];
  };
  Above above(const Rows& rows, std::int64_t h) const {
    Above found;
    for (std::int64_t up = 0; up <= std::min(reach_, h); ++up) found.row[up] = rows.row(h - up);
    return found;
  }
  // Where the lanes of the usual neighbour k of element j begin.
  LASI_INLINE real* place(const Above& above, int j, int k) const {
    const Place& place = places_[j * N + k];
    return above.row[place.up] + place.offset;
  }

  // The features of a block of an image, (N + 1, column, L): neighbours', and the values. 0 in the
  // padding. `rows` holds what is needed.
  LASI_APART void features(const real* image, const Rows& rows, std::int64_t h,
                           std::int64_t block, real* out) const {
    const int channels = g_.known_channels(), size = g_.block_size();
    const Above from = above(rows, h);
    for (int i = 0; i < g_.stride; ++i) {
      const Lanes& at = lanes(h, block, i);
      const auto usual = at.usual != 0;
      for (int c = 0; c < channels; ++c) {
        const int j = i * channels + c;
        for (int k = 0; k < N; ++k) {
          const vec x = at.any ? load(place(from, j, k) + block * L) : vec{};
          store(out + k * size + j * L, usual ? x : vec{});
        }
        store(out + N * size + j * L, load(from.row[0] + j * rows.width() + block * L));
        for (const int l : at.others) {
          const std::int64_t w = (block * L + l) * g_.stride + i;
          const real* own = image + h * g_.row + w * channels + c;
          each_neighbor(h, w, c, [&](int k, std::int64_t offset) {
            out[k * size + j * L + l] = own[offset];
          });
        }
      }
    }
  }

 private:
  struct Place {
    int up;
    std::int64_t offset;
  };

  // The steps (channels, N, 3) of pixel w of row h.
  const std::int32_t* of(std::int64_t h, std::int64_t w) const {
    const std::int64_t side = columns_ / 2;
    std::int64_t column = w;
    if (columns_ < g_.width && w >= side)
      column = w < g_.width - side ? side : columns_ - (g_.width - w);
    return in_column(std::min(h, kinds_ - 1), column);
  }
  const std::int32_t* in_column(std::int64_t kind, std::int64_t column) const {
    return &steps_[(kind * columns_ + column) * g_.channels * N * 3];
  }
  const std::int32_t* usual() const { return in_column(kinds_ - 1, columns_ / 2); }
  static bool is_there(const std::int32_t* step) { return step[0] | step[1] | step[2]; }

  // The pixels of a row whose neighbours are those of the pixel in the middle.
  void find_inside() {
    const std::int64_t middle = columns_ / 2, count = g_.channels * N * 3;
    const std::int32_t* same = usual();
    const auto alike = [&](std::int64_t w) {
      return std::equal(same, same + count, in_column(kinds_ - 1, w));
    };
    begin_ = middle;
    while (begin_ > 0 && alike(begin_ - 1)) --begin_;
    std::int64_t end = middle + 1;
    while (end < columns_ && alike(end)) ++end;
    end_ = g_.width - (columns_ - end);
  }

  void find_places() {
    // Lanes beside that of pixel i.
    const auto lanes = [&](int pixel) {
      return pixel < 0 ? -((g_.stride - 1 - pixel) / g_.stride) : pixel / g_.stride;
    };
    const std::int32_t *steps = usual(), *end = steps + g_.channels * N * 3;
    for (const std::int32_t* step = steps; step < end; step += 3) {
      reach_ = std::max<std::int64_t>(reach_, -step[0]);
      for (const int pixel : {step[1], g_.stride - 1 + step[1]})
        pad_ = std::max<std::int64_t>(pad_, std::abs(lanes(pixel)));
    }
    for (int i = 0; i < g_.stride; ++i)
      for (const std::int32_t* step = steps; step < end; step += 3) {
        const int beside = lanes(i + step[1]), pixel = i + step[1] - beside * g_.stride;
        const int c = (step - steps) / (3 * N);
        const std::int64_t element = pixel * g_.channels + c + step[2];
        places_.push_back({-step[0], element * (g_.lanes() + 2 * pad_) + beside});
      }
  }

  void find_lanes() {
    for (const bool top : {false, true})
      for (std::int64_t block = 0; block < g_.blocks; ++block)
        for (int i = 0; i < g_.stride; ++i) {
          Lanes found{{}, false, {}, {}};
          for (int l = 0; l < L; ++l) {
            const std::int64_t w = (block * L + l) * g_.stride + i;
            const bool usual = !top && w >= begin_ && w < end_;
            if (w < g_.width && !usual) found.others.push_back(l);
            found.usual[l] = usual;
            found.inside[l] = w < g_.width;
            found.any |= usual;
          }
          lanes_[top].push_back(found);
        }
  }

  const Geometry& g_;
  std::int64_t kinds_, columns_;
  std::vector<std::int32_t> steps_;
  std::int64_t begin_ = 0, end_ = 0;  // pixels inside
  std::int64_t reach_ = 0, pad_ = 0;  // rows above, and lanes beside, that neighbours are in
  std::vector<Place> places_;         // (column, N)
  std::vector<Lanes> lanes_[2];       // (blocks, stride): of most rows, of the first ones
};

// ---- The sums of one image, row by row, block by block.

// Features of a block: (N + 1, column, L) each.
struct Features {
  Array<real> left, right;
  explicit Features(const Geometry& g)
      : left(zeros<real>((N + 1) * g.block_size(), 64)),
        right(zeros<real>((N + 1) * g.block_size(), 64)) {}
};

// The example of one moment at element j of a lane.
template <Kind kind>
struct Product {
  const real *left_i, *left_k, *right_i, *right_k;
  Product(const Geometry& g, int p, const Features& features) {
    const std::int64_t i = kPairs.row[p] * g.block_size(), k = kPairs.column[p] * g.block_size();
    const real* left = (kind == Kind::kSquare ? features.right : features.left).get();
    left_i = left + i, left_k = left + k;
    right_i = features.right.get() + i, right_k = features.right.get() + k;
  }
  LASI_INLINE vec operator()(int j) const {
    vec x = load(left_i + j * L) * load(right_k + j * L);
    if (kind == Kind::kMixed) x += load(left_k + j * L) * load(right_i + j * L);
    return x;
  }
};

// p(c - 1), of all channels but the first, and e of the channels of the pixel from element j on.
template <Kind kind>
LASI_INLINE void pixel(real d, const Product<kind>& of, int j, int C, vec* own, vec* before,
                       vec* every) {
  for (int c = 0; c < C; ++c) own[c] = of(j + c);
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

// The moments of L elements.
struct Moments {
  const vec *total, *left;
  real power;
  LASI_INLINE vec operator()(int i, int k) const {
    return total[at(i, k)] + power * left[at(i, k)];
  }
};

template <Kind kind>
class Sums {
 public:
  // `above`: U above the first row, which is used up, or null where no rows are above.
  Sums(const Geometry& g, vec* above)
      : g_(g), own_(above == nullptr ? zeros<vec>(g.row_vectors()) : Array<vec>()),
        above_(above == nullptr ? own_.get() : above),
        right_(zeros<vec>(g.blocks * P * g.channels)),
        lane_right_(zeros<vec>(g.blocks * P * g.channels)), left_(allocate<vec>(P * g.channels)),
        carry_(zeros<real>(P * g.channels)), scratch_(allocate<vec>(5 * g.channels)),
        arrived_(allocate<vec>(g.column)), total_(allocate<vec>(g.column * kPitch, kPage / 2)) {
    if (above != nullptr) find_right();
  }

  void start_row() { std::fill_n(carry_.get(), P * g_.channels, real(0)); }

  // The totals of a block, but for what arrives in a lane from the left.
  LASI_APART void block(std::int64_t b, const Features& features) {
    for (int p = 0; p < P; ++p) walk(b, p, Product<kind>(g_, p, features));
  }

  // The moments of element j of every lane of the block.
  LASI_INLINE Moments moments(int j) const {
    const int C = g_.known_channels();
    return {total_.get() + j * kPitch, left_.get() + j % C * P, g_.powers[j / C]};
  }

  void end_row() {
    const int count = P * g_.known_channels();
    std::fill_n(carry_.get(), count, real(0));
    for (std::int64_t b = g_.blocks; b-- > 0;)
      for (int i = 0; i < count; ++i)
        right_[b * count + i] = arriving<false>(lane_right_[b * count + i], carry_[i]);
  }

 private:
  // G of the row above where every lane begins.
  void find_right() {
    const int C = g_.known_channels();
    for (std::int64_t b = 0; b < g_.blocks; ++b)
      for (int p = 0; p < P; ++p) {
        const vec* u = above_ + (b * P + p) * g_.pitch;
        for (int c = 0; c < C; ++c) {
          vec sum = {};
          for (int i = g_.stride; i-- > 0;) sum = u[i * C + c] + g_.decay * sum;
          lane_right_[(b * P + p) * C + c] = sum;
        }
      }
    end_row();
  }

  // What arrives in every lane of what the lanes before give, and `carry` the block before; it
  // becomes what this block gives. Before: to the left if `up`.
  template <bool up>
  LASI_INLINE vec arriving(vec given, real& carry) const {
    vec full = scan<up>(g_.steps.data(), given);
    if (g_.blocks == 1) return shuffle<Shift<1, up>>(vec{}, full);
    full += (up ? g_.from_left : g_.from_right) * carry;
    const vec found = shuffle<Shift<1, up>>(filled(carry), full);
    carry = full[up ? L - 1 : 0];
    return found;
  }

  LASI_INLINE void walk(std::int64_t b, int p, const Product<kind>& of) {
    const int C = g_.known_channels();
    const real d = g_.decay;
    vec* u = above_ + (b * P + p) * g_.pitch;
    vec* total = total_.get() + p;  // that of element j is kPitch j further
    vec* arrived = arrived_.get();
    vec fixed[5 * kKnown];
    vec* own = kChannels ? fixed : scratch_.get();
    vec *before = own + C, *every = before + C, *carry = every + C, *sum = carry + C;
    {
      vec* g = carry;
      for (int c = 0; c < C; ++c) g[c] = right_[(b * P + p) * C + c];
      for (int i = g_.stride; i-- > 0;)
        for (int c = 0; c < C; ++c) {
          arrived[i * C + c] = g[c] = u[i * C + c] + d * g[c];
        }
    }
    for (int c = 0; c < C; ++c) carry[c] = sum[c] = vec{};
    for (int i = 0; i < g_.stride; ++i) {
      pixel(d, of, i * C, C, own, before, every);
      const real power = g_.powers[i];
      for (int c = 0; c < C; ++c) {
        const int j = i * C + c;
        total[j * kPitch] = arrived[j] + (c == 0 ? carry[c] : before[c] + carry[c]);
        const vec up = every[c] + d * u[j];
        carry[c] = up + d * carry[c];
        sum[c] += power * every[c];
        u[j] = up;
        __builtin_prefetch(u + g_.pitch + j);
        __builtin_prefetch(total + j * kPitch + 1, 1);
      }
    }
    for (int c = 0; c < C; ++c) {
      vec& right = lane_right_[(b * P + p) * C + c];
      right = sum[c] + d * right;
      left_[c * P + p] = arriving<true>(carry[c], carry_[p * C + c]);
    }
  }

  const Geometry& g_;
  Array<vec> own_;
  vec* above_;             // U, of the row above: (blocks, P, pitch)
  Array<vec> right_;       // G where the next lane begins: (blocks, P, channels)
  Array<vec> lane_right_;  // G where a lane begins, of this lane alone
  Array<vec> left_;        // Z where the lane before ends, of this block: (channels, P)
  Array<real> carry_;      // the same where a block ends; or G, while they are walked back
  Array<vec> scratch_;
  Array<vec> arrived_;  // G at every element, of one moment: (column)
  Array<vec> total_;    // of all moments: (column, kPitch)
};

// U of the moments from `first` to `last` of a block alone, which needs nothing of other blocks.
template <Kind kind>
LASI_APART void rise(const Geometry& g, const Features& features, int first, int last, vec* above,
                     vec* scratch) {
  const int C = g.known_channels();
  vec fixed[3 * kKnown];
  vec *own = kChannels ? fixed : scratch, *before = own + C, *every = before + C;
  for (int p = first; p < last; ++p) {
    const Product<kind> of(g, p, features);
    vec* u = above + (p - first) * g.pitch;
    for (int i = 0; i < g.stride; ++i) {
      pixel(g.decay, of, i * C, C, own, before, every);
      for (int c = 0; c < C; ++c) u[i * C + c] = every[c] + g.decay * u[i * C + c];
    }
  }
}

// ---- The ridge systems of L elements.

// `moment(i, k)`, i <= k, is that of the system, the right-hand side with k = N; `ridge` is added
// to the diagonal, `prior` to the right-hand side. `factors` become those of A = L D L^T, D L^T in
// the places of A, and `inverse` 1 / D; `x` the coefficients.
template <class Moment>
LASI_INLINE void solve(const Moment& moment, vec* factors, vec* inverse, vec* x, real ridge,
                       real prior) {
  LASI_UNROLL
  for (int k = 0; k < N; ++k) {
    vec row[N + 1];
    LASI_UNROLL
    for (int j = k; j <= N; ++j) row[j] = moment(k, j);
    row[k] += ridge;
    row[N] += prior;
    LASI_UNROLL
    for (int i = 0; i < k; ++i) {
      const vec factor = factors[at(i, k)] * inverse[i];
      LASI_UNROLL
      for (int j = k; j <= N; ++j) row[j] -= factor * factors[at(i, j)];
    }
    LASI_UNROLL
    for (int j = k; j <= N; ++j) factors[at(k, j)] = row[j];
    inverse[k] = real(1) / row[k];
  }
  LASI_UNROLL
  for (int k = 0; k < N; ++k) x[k] = factors[at(k, N)];
  LASI_UNROLL
  for (int k = N - 1; k >= 0; --k) {
    x[k] *= inverse[k];
    LASI_UNROLL
    for (int i = 0; i < k; ++i) x[i] -= factors[at(i, k)] * x[k];
  }
}

// A^{-1} x in the place of x, by the factors that `solve` left.
LASI_INLINE void solve_again(const vec* factors, const vec* inverse, vec* x) {
  LASI_UNROLL
  for (int k = 0; k < N; ++k) {
    const vec scaled = x[k] * inverse[k];
    LASI_UNROLL
    for (int i = k + 1; i < N; ++i) x[i] -= factors[at(k, i)] * scaled;
  }
  LASI_UNROLL
  for (int k = N - 1; k >= 0; --k) {
    x[k] *= inverse[k];
    LASI_UNROLL
    for (int i = 0; i < k; ++i) x[i] -= factors[at(i, k)] * x[k];
  }
}

LASI_INLINE vec square_root(vec x) {
  real y[L];
  store(y, x);
  for (int j = 0; j < L; ++j) y[j] = std::sqrt(y[j]);
  return load(y);
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

// The symmetric matrix of moments (N, N + 1), times N planes and a last one.
LASI_INLINE void times(const Moments& moments, const vec* x, vec last, vec* out) {
  LASI_UNROLL
  for (int i = 0; i < N; ++i) out[i] = moments(i, N) * last;
  LASI_UNROLL
  for (int i = 0; i < N; ++i) {
    LASI_UNROLL
    for (int k = i; k < N; ++k) {
      const vec moment = moments(i, k);
      out[i] += moment * x[k];
      if (k > i) out[k] += moment * x[i];
    }
  }
}

// ---- Walks.

// An image, or two whose products are mixed.
struct Source {
  const real* values;
  const real* other;    // or null
  const real* weights;  // or null
};

// The features of a source, of lanes `first` ... `last`.
template <Kind kind>
class Reader {
 public:
  Reader(const Geometry& g, const Neighbors& neighbors, const Source& source, std::int64_t first,
         std::int64_t last)
      : g_(g), neighbors_(neighbors), source_(source), values_(neighbors.rows(first, last)),
        others_(neighbors.rows(first, last)), weights_(allocate<real>(g.block_size())) {}
  Reader(const Geometry& g, const Neighbors& neighbors, const Source& source)
      : Reader(g, neighbors, source, 0, g.lanes()) {}

  void fill(std::int64_t h, std::int64_t block, Features& out) {
    real *left = out.left.get(), *right = out.right.get();
    values_.read(source_.values, h);
    neighbors_.features(source_.values, values_, h, block, right);
    if (kind == Kind::kSquare) return;
    if (kind == Kind::kMixed) {
      others_.read(source_.other, h);
      neighbors_.features(source_.other, others_, h, block, left);
    }
    if (source_.weights == nullptr) return;
    to_lanes(g_, block, source_.weights + h * g_.row, weights_.get());
    const real* from = kind == Kind::kMixed ? left : right;
    for (int k = 0; k <= N; ++k)
      for (int j = 0; j < g_.column; ++j) {
        const std::int64_t place = std::int64_t(k) * g_.block_size() + j * L;
        store(left + place, load(weights_.get() + j * L) * load(from + place));
      }
  }

 private:
  const Geometry& g_;
  const Neighbors& neighbors_;
  const Source source_;
  Rows values_, others_;
  Array<real> weights_;
};

// A walk along the blocks of M images at once. `above`: U of the row above the first, for each
// image, which is used up, or null for none.
template <Kind kind, int M>
class Walk {
 public:
  Walk(const Geometry& g, const Neighbors& neighbors, const Source* sources, vec* above)
      : g_(g), features_(g) {
    for (int m = 0; m < M; ++m) {
      readers_.emplace_back(g, neighbors, sources[m]);
      sums_.emplace_back(g, above == nullptr ? nullptr : above + m * g.row_vectors());
    }
  }

  // Block b of row h, which follows the one before.
  void block(std::int64_t h, std::int64_t b) {
    for (int m = 0; m < M; ++m) {
      if (b == 0) sums_[m].start_row();
      readers_[m].fill(h, b, features_);
      sums_[m].block(b, features_);
      if (b + 1 == g_.blocks) sums_[m].end_row();
    }
  }

  // The moments of element j of the lanes of the block, of an image.
  Moments moments(int m, int j) const { return sums_[m].moments(j); }

 private:
  const Geometry& g_;
  std::vector<Reader<kind>> readers_;
  std::vector<Sums<kind>> sums_;
  Features features_;
};

// U above the first row of every band but the first, for M images: (bands - 1, M, row_vectors).
// The pixels of a row need nothing of each other, nor do the moments: a part of those of a block
// at a time, so that they stay in the cache from row to row.
template <Kind kind, int M>
Array<vec> rows_above(ffi::ThreadPool& pool, std::int64_t threads, const Geometry& g,
                      const Neighbors& neighbors, const Source* sources,
                      const std::vector<std::int64_t>& starts) {
  const std::int64_t row = g.row_vectors(), bands = starts.size() - 1;
  Array<vec> found = allocate<vec>((bands - 1) * M * row);
  if (bands == 1) return found;
  const std::int64_t whole = g.blocks * M;
  // Every part looks up all features.
  const std::int64_t parts =
      std::min<std::int64_t>(P / (N + 1) + 1, (2 * threads + whole - 1) / whole);
  in_parallel(pool, threads, whole * parts, [&](std::int64_t task) {
    const std::int64_t part = task % parts, m = task / parts % M, b = task / parts / M;
    const int first = P * part / parts, last = P * (part + 1) / parts;
    const std::int64_t count = std::int64_t(last - first) * g.pitch;
    const Array<vec> above = zeros<vec>(count), scratch = allocate<vec>(3 * g.channels);
    Features features(g);
    Reader<kind> reader(g, neighbors, sources[m], b * L, (b + 1) * L);
    for (std::int64_t band = 1; band < bands; ++band) {
      for (std::int64_t h = starts[band - 1]; h < starts[band]; ++h) {
        reader.fill(h, b, features);
        rise<kind>(g, features, first, last, above.get(), scratch.get());
      }
      vec* out = found.get() + ((band - 1) * M + m) * row + (b * P + first) * g.pitch;
      std::memcpy(static_cast<void*>(out), above.get(), count * sizeof(vec));
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

// consume(i) gives what is called for every block of number i: (h, block, walk).
template <Kind kind, int M, class Sources, class Consume>
void walk_all(ffi::ThreadPool& pool, const Geometry& g, const Neighbors& neighbors,
              std::int64_t count, const Sources& sources, const Consume& consume) {
  std::vector<Array<vec>> above;
  const auto bands = bands_of<kind, M>(pool, g, neighbors, count, sources, 1, above);
  in_parallel(pool, threads_of(pool), bands.size(), [&](std::int64_t task) {
    const Band<M>& band = bands[task];
    Walk<kind, M> walk(g, neighbors, band.images, band.above);
    auto consumer = consume(band.i);
    for (std::int64_t h = band.from; h < band.to; ++h)
      for (std::int64_t b = 0; b < g.blocks; ++b) {
        walk.block(h, b);
        consumer(h, b, walk);
      }
  });
}

// A block of `count` planes of an image, by lanes.
class Block {
 public:
  Block(const Geometry& g, int count)
      : g_(&g), count_(count), lanes_(allocate<real>(std::int64_t(count) * g.block_size())) {}

  void read(const real* planes, std::int64_t h, std::int64_t b) {
    for (int k = 0; k < count_; ++k)
      to_lanes(*g_, b, planes + k * g_->size() + h * g_->row, at(k, 0));
  }
  void write(real* planes, std::int64_t h, std::int64_t b) const {
    for (int k = 0; k < count_; ++k)
      from_lanes(*g_, b, at(k, 0), planes + k * g_->size() + h * g_->row);
  }
  // All planes of element j of every lane.
  LASI_INLINE void get(int j, vec* x) const {
    for (int k = 0; k < count_; ++k) x[k] = load(at(k, j));
  }
  LASI_INLINE void set(int j, const vec* x) {
    for (int k = 0; k < count_; ++k) store(at(k, j), x[k]);
  }

 private:
  real* at(int k, int j) const { return lanes_.get() + std::int64_t(k) * g_->block_size() + j * L; }

  const Geometry* g_;
  int count_;
  Array<real> lanes_;
};

// Vectors u and v, N to an element, of which an adjoint is made.
struct VectorsByLanes {
  const vec* u;  // (rows, blocks, column, N)
  const vec* v;
  std::int64_t first;  // row

  void get(const Geometry& g, std::int64_t h, std::int64_t b, int j, vec* of_u, vec* of_v) const {
    const std::int64_t place = (((h - first) * g.blocks + b) * g.column + j) * N;
    for (int k = 0; k < N; ++k) of_u[k] = u[place + k], of_v[k] = v[place + k];
  }
  void read(std::int64_t, std::int64_t) {}
};

struct VectorsInPlanes {
  const real* u;  // (N, height, width, channels)
  const real* v;
  Block of_u, of_v;

  void read(std::int64_t h, std::int64_t b) { of_u.read(u, h, b), of_v.read(v, h, b); }
  void get(const Geometry&, std::int64_t, std::int64_t, int j, vec* to_u, vec* to_v) const {
    of_u.get(j, to_u), of_v.get(j, to_v);
  }
};

// The adjoint: rows bottom to top of one image, its state kept from call to call. The sums go
// against the order of elements: blocks, lanes and the elements of a lane are reversed.
class Adjoint {
 public:
  // `left`: for the weights' cotangent, or null, and what that is multiplied with. `own`: what
  // stands for the own value beside the elements of v.
  Adjoint(const Geometry& g, const Neighbors& neighbors, const real* left, const real* right,
          const real* weights, real* image, real* of_weights, real factor, real own)
      : g_(g), neighbors_(neighbors), factor_(factor), left_(left), right_(right),
        weights_(weights), image_(image), of_weights_(of_weights), sums_(g, nullptr),
        vectors_(g), features_(g), lefts_(neighbors.rows()), rights_(neighbors.rows()),
        images_(neighbors.rows()), mask_(g, 1), weight_out_(g, 1) {
    if (image != nullptr) std::fill(image, image + g.size(), real(0));
    for (int j = 0; j < g.column; ++j)
      store(vectors_.right.get() + N * g.block_size() + j * L, filled(own));
  }

  // Rows to - 1 down to `from`.
  template <class Vectors>
  void rows(Vectors& vectors, std::int64_t from, std::int64_t to) {
    for (std::int64_t h = to; h-- > from;) {
      sums_.start_row();
      rights_.read(right_, h);
      const bool both = of_weights_ != nullptr && left_ != right_;
      if (both) lefts_.read(left_, h);
      for (std::int64_t b = g_.blocks; b-- > 0;) {
        fill(vectors, h, b);
        sums_.block(g_.blocks - 1 - b, vectors_);
        neighbors_.features(right_, rights_, h, b, features_.right.get());
        if (both) neighbors_.features(left_, lefts_, h, b, features_.left.get());
        if (weights_ != nullptr) mask_.read(weights_, h, b);
        for (int j = g_.column; j-- > 0;) pull(h, b, j);
        if (of_weights_ != nullptr) weight_out_.write(of_weights_, h, b);
      }
      sums_.end_row();
      if (image_ != nullptr) images_.flush(h, image_);
    }
  }

 private:
  template <class Vectors>
  LASI_APART void fill(Vectors& vectors, std::int64_t h, std::int64_t b) {
    vectors.read(h, b);
    real *left = vectors_.left.get(), *right = vectors_.right.get();
    for (int j = 0; j < g_.column; ++j) {
      vec u[N], v[N];
      vectors.get(g_, h, b, j, u, v);
      // The padding may hold NaN, which no 0 beside it would silence.
      const auto inside = neighbors_.lanes(h, b, j / g_.known_channels()).inside != 0;
      for (int k = 0; k < N; ++k) {
        const std::int64_t place = std::int64_t(k) * g_.block_size() + (g_.column - 1 - j) * L;
        store(left + place, reversed(inside ? u[k] : vec{}));
        store(right + place, reversed(inside ? v[k] : vec{}));
      }
    }
  }

  LASI_INLINE void feature_planes(const real* features, int j, vec* out) const {
    for (int k = 0; k <= N; ++k)
      out[k] = load(features + std::int64_t(k) * g_.block_size() + j * L);
  }

  LASI_APART void pull(std::int64_t h, std::int64_t b, int j) {
    vec psi[N + 1], backward[N + 1], pulled[N + 1];
    const Moments moments = sums_.moments(g_.column - 1 - j);
    feature_planes(features_.right.get(), j, psi);
    LASI_UNROLL
    for (int k = 0; k <= N; ++k) backward[k] = reversed(psi[k]);
    times(moments, backward, backward[N], pulled);
    pulled[N] = vec{};
    LASI_UNROLL
    for (int k = 0; k < N; ++k) pulled[N] += moments(k, N) * backward[k];
    LASI_UNROLL
    for (int k = 0; k <= N; ++k) pulled[k] = reversed(g_.decay * pulled[k]);
    if (of_weights_ != nullptr) {
      if (left_ != right_) feature_planes(features_.left.get(), j, psi);
      vec sum = {};
      for (int i = 0; i <= N; ++i) sum += pulled[i] * psi[i];
      sum *= factor_;
      weight_out_.set(j, &sum);
    }
    if (image_ == nullptr) return;
    if (weights_ != nullptr) {
      vec weight;
      mask_.get(j, &weight);
      for (int k = 0; k <= N; ++k) pulled[k] *= weight;
    }
    scatter(pulled, h, b, j);
  }

  static LASI_INLINE void add(real* p, vec x) { store(p, load(p) + x); }

  LASI_APART void scatter(const vec* pulled, std::int64_t h, std::int64_t b, int j) {
    const int C = g_.known_channels(), i = j / C, c = j % C;
    const Neighbors::Lanes& at = neighbors_.lanes(h, b, i);
    const Neighbors::Above to = neighbors_.above(images_, h);
    add(to.row[0] + j * images_.width() + b * L, pulled[N]);
    if (at.any)
      for (int k = 0; k < N; ++k)
        add(neighbors_.place(to, j, k) + b * L,
            at.usual != 0 ? pulled[k] : vec{});
    for (const int l : at.others) {
      const std::int64_t w = (b * L + l) * g_.stride + i;
      real* own = image_ + h * g_.row + w * C + c;
      neighbors_.each_neighbor(h, w, c, [&](int k, std::int64_t offset) {
        own[offset] += pulled[k][l];
      });
    }
  }

  const Geometry& g_;
  const Neighbors& neighbors_;
  const real factor_;
  const real *left_, *right_, *weights_;
  real *image_, *of_weights_;
  Sums<Kind::kMixed> sums_;
  Features vectors_, features_;
  Rows lefts_, rights_, images_;
  Block mask_, weight_out_;
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
    const bool given = rights.data != nullptr;
    walk_all<kKind, 1>(
        pool, g, call.neighbors, call.count,
        [&](std::int64_t i, int) { return Source{images[i], nullptr, masks[i]}; },
        [&](std::int64_t i) {
          return [&, i, right = Block(g, N), found = Block(g, N)](
                     std::int64_t h, std::int64_t block, const Walk<kKind, 1>& walk) mutable {
            if (given) right.read(rights[i], h, block);
            for (int j = 0; j < g.column; ++j) {
              const Moments moments = walk.moments(0, j);
              vec b[N], factors[P], inverse[N], x[N];
              if (given) right.get(j, b);
              // A lacks a factor d here, so its inverse has one too many.
              const auto moment = [&](int i, int k) {
                return given && k == N ? b[i] * (1 / g.decay) : moments(i, k);
              };
              solve(moment, factors, inverse, x, call.ridge, given ? 0 : call.prior);
              found.set(j, x);
            }
            found.write(outs[i], h, block);
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
      : call_(call), g_(call.g), map_(map), first_(band.from * g_.blocks),
        blocks_((band.to - band.from) * g_.blocks), out_(g_, 1) {
    for (int m = 0; m < 2; ++m) {
      vec* above = band.above == nullptr ? nullptr : band.above + m * g_.row_vectors();
      walks_.emplace_back(g_, call.neighbors, band.images + m, above);
      units_.push_back(allocate<vec>(kRing * N * g_.column));
    }
  }

 private:
  // Blocks that one image may be ahead of the other: a thread that waits for each of them sleeps.
  static constexpr int kRing = 16;

  bool step(std::unique_lock<std::mutex>& lock) override {
    if (compared_ == blocks_) return false;
    for (int m = 0; m < 2; ++m) {
      if (busy_[m] || walked_[m] == blocks_ || walked_[m] == compared_ + kRing) continue;
      const std::int64_t block = walked_[m];
      busy_[m] = true;
      lock.unlock();
      walk_along(m, block);
      lock.lock();
      ++walked_[m];
      if (walked_[1 - m] >= walked_[m]) {
        lock.unlock();
        compare(block);
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

  vec* unit(int m, std::int64_t block) const {
    return units_[m].get() + block % kRing * N * g_.column;
  }

  // The embeddings of a block of an image.
  void walk_along(int m, std::int64_t block) {
    walks_[m].block((first_ + block) / g_.blocks, (first_ + block) % g_.blocks);
    vec* out = unit(m, block);
    for (int j = 0; j < g_.column; ++j) {
      vec factors[P], inverse[N], theta[N];
      solve(walks_[m].moments(0, j), factors, inverse, theta, call_.ridge, call_.prior);
      normalize(theta);
      out = std::copy_n(theta, N, out);
    }
  }

  void compare(std::int64_t block) {
    const vec *of_x = unit(0, block), *of_y = unit(1, block);
    for (int j = 0; j < g_.column; ++j, of_x += N, of_y += N) {
      const vec apart = separation(of_x, of_y);
      out_.set(j, &apart);
    }
    out_.write(map_, (first_ + block) / g_.blocks, (first_ + block) % g_.blocks);
  }

  const Call& call_;
  const Geometry& g_;
  real* map_;
  const std::int64_t first_, blocks_;  // from which on; how many
  std::vector<Walk<kKind, 1>> walks_;
  std::vector<Array<vec>> units_;
  Block out_;
  bool busy_[2] = {};
  std::int64_t walked_[2] = {}, compared_ = 0;  // blocks
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
LASI_APART vec solve_pair(const Moments& of_x, const Moments& of_y, real ridge, real prior,
                          real decay, vec (*theta)[N], vec (*adjoint)[N]) {
  vec factors[2][P], inverse[2][N], unit[2][N], inverse_norm[2];
  for (int m = 0; m < 2; ++m) {
    solve(m ? of_y : of_x, factors[m], inverse[m], theta[m], ridge, prior);
    std::copy_n(theta[m], N, unit[m]);
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
    solve_again(factors[m], inverse[m], adjoint[m]);
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
    const Many outs[4] = {Many(*theta_x), Many(*theta_y), Many(*adjoint_x), Many(*adjoint_y)};
    walk_all<kKind, 2>(pool, g, call.neighbors, call.count, pairs, [&](std::int64_t i) {
      std::vector<Block> found;
      for (int part = 0; part < 4; ++part) found.emplace_back(g, N);
      return [&, i, found = std::move(found), separations = Block(g, 1)](
                 std::int64_t h, std::int64_t b, const Walk<kKind, 2>& walk) mutable {
        for (int j = 0; j < g.column; ++j) {
          vec theta[2][N], adjoint[2][N];
          const vec apart = solve_pair(walk.moments(0, j), walk.moments(1, j), call.ridge,
                                       call.prior, g.decay, theta, adjoint);
          separations.set(j, &apart);
          for (int m = 0; m < 2; ++m) found[m].set(j, theta[m]), found[2 + m].set(j, adjoint[m]);
        }
        separations.write(maps[i], h, b);
        for (int part = 0; part < 4; ++part) found[part].write(outs[part][i], h, b);
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
          return [&, i, given = Block(g, N), found = Block(g, N)](
                     std::int64_t h, std::int64_t b, const Walk<Kind::kMixed, 1>& walk) mutable {
            given.read(vs[i], h, b);
            for (int j = 0; j < g.column; ++j) {
              vec v[N], product[N];
              given.get(j, v);
              times(walk.moments(0, j), v, filled(own), product);
              for (int k = 0; k < N; ++k) product[k] *= g.decay;
              found.set(j, product);
            }
            found.write(outs[i], h, b);
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
    in_parallel(pool, threads_of(pool), call.count, [&](std::int64_t i) {
      Adjoint adjoint(g, call.neighbors, lefts[i], rights[i], masks[i], images[i],
                      weight_outs[i], real(1), real(own));
      VectorsInPlanes vectors{us[i], vs[i], Block(g, N), Block(g, N)};
      adjoint.rows(vectors, 0, g.height);
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
          real(0.5), real(-1)));  // an image's products with itself count twice
    }
    // A band waits for those below it and for a place in the ring, which should fit into a cache;
    // several threads need many bands; but every band costs U above it.
    ring_ = threads == 1 ? 1 : threads + 2;
    const std::int64_t row = g_.blocks * g_.column * N;
    const std::int64_t kept = number_.size() * 2 * row * sizeof(vec);
    std::int64_t rows = kRingBytes / (ring_ * kept);
    if (threads > 1) rows = std::min(rows, g_.height / (8 * threads));
    const std::int64_t all_above = 2 * sizeof(vec) * g_.row_vectors() * g_.height;
    // Long bands take room in the ring, many take it for U: not more than where both take the same.
    const std::int64_t balanced = std::ceil(std::sqrt(double(all_above) / (ring_ * kept)));
    rows = std::max(rows, std::min(all_above / kAboveBytes, balanced));
    rows = std::min(std::max<std::int64_t>(1, rows), g_.height);
    bands_ = (g_.height + rows - 1) / rows;
    ring_ = std::min(ring_, bands_);
    starts_ = cut(g_.height, bands_);
    above_ = rows_above<kKind, 2>(pool, threads, g_, call.neighbors, sources, starts_);
    part_ = (rows + 1) * row;
    room_ = allocate<vec>(ring_ * number_.size() * 2 * part_);
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

  // N vectors to an element of a band: of theta or u, for an image that is asked for.
  vec* part(std::int64_t band, std::size_t a, int which) const {
    return room_.get() + ((band % ring_ * number_.size() + a) * 2 + which) * part_;
  }

  void solve_band(std::int64_t band) {
    vec* row = band ? above_.get() + (band - 1) * 2 * g_.row_vectors() : nullptr;
    Walk<kKind, 2> walk(g_, call_.neighbors, sources_, row);
    Block cotangent(g_, 1), separations(g_, 1);
    std::int64_t place = 0;
    for (std::int64_t h = starts_[band]; h < starts_[band + 1]; ++h)
      for (std::int64_t b = 0; b < g_.blocks; ++b) {
        walk.block(h, b);
        cotangent.read(cotangent_, h, b);
        for (int j = 0; j < g_.column; ++j, place += N) {
          vec theta[2][N], adjoint[2][N], scale;
          const vec apart = solve_pair(walk.moments(0, j), walk.moments(1, j), call_.ridge,
                                       call_.prior, g_.decay, theta, adjoint);
          separations.set(j, &apart);
          cotangent.get(j, &scale);
          for (std::size_t a = 0; a < number_.size(); ++a) {
            const int m = number_[a];
            vec *to_theta = part(band, a, 0) + place, *to_adjoint = part(band, a, 1) + place;
            for (int k = 0; k < N; ++k) {
              to_theta[k] = theta[m][k];
              to_adjoint[k] = -scale * adjoint[m][k];
            }
          }
        }
        separations.write(map_, h, b);
      }
  }

  void pull(std::int64_t band, std::size_t a) {
    VectorsByLanes vectors{part(band, a, 1), part(band, a, 0), starts_[band]};
    adjoints_[a]->rows(vectors, starts_[band], starts_[band + 1]);
  }

  const Call& call_;
  const Geometry& g_;
  const Source* sources_;
  const real* cotangent_;
  real* map_;
  std::vector<int> number_;  // of the images that are asked for
  std::vector<std::unique_ptr<Adjoint>> adjoints_;
  Array<real> more_;
  Array<vec> room_, above_;
  std::int64_t ring_, bands_, part_;  // part_: vectors of one of a band
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
