// SPDX-License-Identifier: GPL-2.0
//
// What user space and the program share. `src/plane/layout.rs` has the same in Rust; a change of
// any of it is a change of LAYOUT there.

#ifndef TABLES_H
#define TABLES_H

// Flags of a service.
#define BY_HASH 1u        // pick the slot by hash, else by counting
#define HASH_PORT 2u      // the hash includes the client's port
#define ONE_PACKET 4u     // UDP: each packet by itself
#define HASH_VIP 8u       // the hash is of the virtual address alone
#define LEAST 16u         // the least loaded of all
#define LOAD_ACTIVE 32u   // load is established connections + 1 (sed, nq), else all, see load()
#define BY_WEIGHT 64u     // load counts in proportion to the weight
#define IDLE_FIRST 128u   // a server without an established connection has no load (nq)
#define PERSISTENT 256u   // a client stays with its server

// Flags of a real server.
#define REAL_USABLE 1u    // takes packets of connections it has
#define REAL_LOCAL 2u     // it is this host: deliver here
#define REAL_MAC 4u       // `mac` is known
#define REAL_NEW 8u       // takes new connections

// States of a connection, as far as one direction shows them. IPVS's names.
#define SYN_RECV 1u
#define ESTABLISHED 2u
#define FIN_WAIT 3u
#define CLOSED 4u         // by a reset
#define DATAGRAM 5u

struct address {
	__u32 word[4];    // IPv4: in the last, the others 0
};

struct service_key {
	struct address vip;
	__u16 port;       // network order; 0: any
	__u8 protocol;
	__u8 family;      // | FRAGMENTS: what takes fragments whose ports are not known
};

#define FRAGMENTS 0x80

#define ADDRESSES 4096    // a power of two

#define SECOND 1000000000ull

struct service {
	__u32 base;       // first slot
	__u32 slots;      // 0: no real server
	__u32 flags;
	__u32 id;         // index of its turn
	struct address mask;   // of the client, for persistence
	__u64 persistence;     // ns
	__u16 port;       // as in its key
	__u16 pad[3];
};

struct real {
	struct address ip;
	__u32 interface;
	__u32 flags;
	__u32 generation; // of the table entry: an index may be used again for another server
	__u32 weight;
	__u32 upper;      // connections from which on it gets no new ones; 0: no limit
	__u32 lower;      // below this it gets new ones again
	__u8 mac[6];
	__u8 source[6];   // of the interface that leads to it
	__u8 family;
	__u8 pad[3];
};

// Connections of a real server. Counted here as they come and go, put right by user space, which
// sees those that time ends.
struct load {
	__u32 active;     // established
	__u32 inactive;   // all others
	__u32 full;       // was above `upper` and is not below `lower` yet
	__u32 pad;
};

struct flow {
	struct address client;
	struct address vip;
	__u16 client_port;
	__u16 vip_port;
	__u8 protocol;
	__u8 family;
	__u8 pad[2];
};

struct connection {
	__u32 real;
	__u32 generation;
	__u32 state;
	__u32 heard;      // from the peer; no packet of it came here since
	__u64 seen;       // ns, CLOCK_MONOTONIC
	__u64 told;       // when the peer was last told
};

struct template {
	__u32 real;
	__u32 generation;
	__u64 seen;
	__u64 timeout;    // ns
};

// Where the rest of a datagram goes.
struct fragments_of {
	__u32 real;
	__u32 generation;
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u32 protocol;
};

// Which real server an index stands for: for user space alone, whose next run finds it here.
struct name {
	struct service_key service;
	struct address ip;
	__u16 port;
	__u8 family;
	__u8 pad;
};

struct counters {
	__u64 packets;
	__u64 bytes;
	__u64 connections;
};

// What user space is told of.
struct event {
	struct flow flow;
	struct connection connection;
};

struct settings {
	__u32 tell;       // changes of connections go into `events`
	__u32 pad;
	__u64 tick;       // ns of a jiffy; 0: jiffies can't be used
	__u64 offset;     // CLOCK_MONOTONIC = jiffies * tick + offset, within a tick
};

// One moment on both clocks.
struct moment {
	__u64 jiffies;
	__u64 ns;         // CLOCK_MONOTONIC
};

// An interface of this host that packets arrive at.
struct link {
	__u8 mac[6];
	__u8 pad[2];
};

#define TABLE(NAME, TYPE, ENTRIES, KEY, VALUE)       \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_##TYPE);   \
		__uint(max_entries, ENTRIES);        \
		__type(key, KEY);                    \
		__type(value, VALUE);                \
	} NAME SEC(".maps")

TABLE(services, HASH, 4096, struct service_key, struct service);
TABLE(slots, ARRAY, 1048576, __u32, __u32);
TABLE(reals, ARRAY, 4096, __u32, struct real);
TABLE(names, ARRAY, 4096, __u32, struct name);
TABLE(loads, ARRAY, 4096, __u32, struct load);
TABLE(turns, ARRAY, 4096, __u32, __u64);
TABLE(statistics, PERCPU_ARRAY, 4096, __u32, struct counters);
TABLE(settings, ARRAY, 1, __u32, struct settings);
TABLE(clock, ARRAY, 1, __u32, struct moment);
// Whether a virtual address may be among those whose hash is the index: 0 if not. So most packets
// that are none of ours are known by one look.
TABLE(addresses, ARRAY, ADDRESSES, __u32, __u32);
TABLE(links, HASH, 1024, __u32, struct link);
// TCP whose handshake is done: a flood of SYNs can't push these out.
TABLE(connections, LRU_HASH, 262144, struct flow, struct connection);
// TCP in its handshake, and UDP.
TABLE(begun, LRU_HASH, 131072, struct flow, struct connection);
// Key: masked client, no client port, the service's port.
TABLE(templates, LRU_HASH, 65536, struct flow, struct template);
TABLE(fragments, LRU_HASH, 8192, struct fragment_key, struct fragments_of);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1048576);
} events SEC(".maps");

#endif
