// SPDX-License-Identifier: GPL-2.0
//
// Direct routing on tc ingress: a packet for a virtual server goes back out with a real server's
// MAC as destination and nothing else changed but the TTL. The real server, which holds the virtual
// address on lo, answers the client by itself.
//
// What is decided where: user space computes the table of slots of each virtual server (weights,
// Maglev); this program picks a slot by counting (rr, wrr) or by hashing (sh, mh), remembers the
// choice in the connection table, and leaves finding the neighbour to the kernel
// (bpf_redirect_neigh), so that real servers may move, and their MACs need no copying.
//
// Whatever is not for a virtual server is left alone.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif
#define PACKET_HOST 0

// Not ours: on to the next program, or to this host.
#define LEAVE TC_ACT_UNSPEC

#define IP_OFFSET 0x1fff
#define IP_MORE 0x2000
#define NEXTHDR_FRAGMENT 44

// Flags of a service.
#define BY_HASH 1u        // pick the slot by hash, else by counting
#define HASH_PORT 2u      // the hash includes the client's port
#define ONE_PACKET 4u     // UDP: each packet by itself

// Flags of a real server.
#define REAL_USABLE 1u    // takes packets of connections it has
#define REAL_LOCAL 2u     // it is this host: deliver here

// State of a connection.
#define CONN_OPEN 0u
#define CONN_CLOSING 1u   // FIN or RST seen: a SYN begins a new one

struct address {
	__u32 word[4];    // IPv4: in the last, the others 0
};

struct service_key {
	struct address vip;
	__u16 port;       // network order; 0: any
	__u8 protocol;
	__u8 family;
};

struct service {
	__u32 base;       // first slot
	__u32 slots;      // 0: no real server
	__u32 flags;
	__u32 id;         // index of its counter
};

struct real {
	struct address ip;
	__u32 interface;
	__u32 flags;
	__u32 generation; // of the table entry: an index may be used again for another server
	__u8 family;
	__u8 pad[3];
};

struct flow {
	struct address client;
	struct address vip;
	__u16 client_port;
	__u16 vip_port;
	__u8 protocol;
	__u8 pad[3];
};

struct connection {
	__u32 real;
	__u32 generation;
	__u32 state;
	__u32 pad;
	__u64 seen;       // ns since boot
};

struct counters {
	__u64 packets;
	__u64 bytes;
	__u64 connections;
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1048576);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct real);
} reals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct connection);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct counters);
} statistics SEC(".maps");

static __always_inline void map_v4(struct address *to, __u32 ip)
{
	to->word[0] = 0;
	to->word[1] = 0;
	to->word[2] = 0;
	to->word[3] = ip;
}

static __always_inline void map_v6(struct address *to, const struct in6_addr *ip)
{
	__builtin_memcpy(to, ip, sizeof(*to));
}

static __always_inline __u32 mix(__u32 h, __u32 v)
{
	h ^= v;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

// The same on every director: the choice must survive the death of one. Constants and order are
// part of the contract with `maglev.rs`.
static __always_inline __u32 hash_client(const struct address *a, __u32 port)
{
	__u32 h = 0x9747b28c;

	h = mix(h, a->word[0]);
	h = mix(h, a->word[1]);
	h = mix(h, a->word[2]);
	h = mix(h, a->word[3]);
	return mix(h, port);
}

static __always_inline struct service *find_service(struct flow *flow, __u8 family)
{
	struct service_key key = {};
	struct service *service;

	key.vip = flow->vip;
	key.port = flow->vip_port;
	key.protocol = flow->protocol;
	key.family = family;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service) {
		key.port = 0;
		service = bpf_map_lookup_elem(&services, &key);
	}
	return service;
}

static __always_inline int pick(struct service *service, struct flow *flow, __u32 *index)
{
	__u32 n = service->slots, id = service->id, slot;
	__u32 *real;

	if (n == 0)
		return -1;
	if (service->flags & BY_HASH) {
		__u32 port = service->flags & HASH_PORT ? flow->client_port : 0;

		slot = hash_client(&flow->client, port) % n;
	} else {
		__u64 *turn = bpf_map_lookup_elem(&turns, &id);

		if (!turn)
			return -1;
		slot = (__u32)(__sync_fetch_and_add(turn, 1) % n);
	}
	slot += service->base;
	real = bpf_map_lookup_elem(&slots, &slot);
	if (!real)
		return -1;
	*index = *real;
	return 0;
}

static __always_inline struct real *usable(__u32 index, __u32 generation, int check)
{
	struct real *real = bpf_map_lookup_elem(&reals, &index);

	if (!real || !(real->flags & REAL_USABLE))
		return 0;
	if (check && real->generation != generation)
		return 0;
	return real;
}

static __always_inline int deliver(struct __sk_buff *skb, struct real *real, __u32 index,
				   int is_new)
{
	struct bpf_redir_neigh next = {};
	struct counters *count = bpf_map_lookup_elem(&statistics, &index);

	if (count) {
		count->packets++;
		count->bytes += skb->len;
		count->connections += is_new;
	}
	if (real->flags & REAL_LOCAL)
		return TC_ACT_OK;
	if (real->family == AF_INET) {
		next.nh_family = AF_INET;
		next.ipv4_nh = real->ip.word[3];
	} else {
		next.nh_family = AF_INET6;
		__builtin_memcpy(next.ipv6_nh, &real->ip, sizeof(real->ip));
	}
	return bpf_redirect_neigh(real->interface, &next, sizeof(next), 0);
}

// Finds or makes the connection's real server. Null: leave the packet to this host, which refuses
// it by a reset or "port unreachable".
static __always_inline struct real *route(struct service *service, struct flow *flow,
					  int is_syn, int ends, __u32 *index, int *is_new)
{
	struct connection *known = bpf_map_lookup_elem(&connections, flow);
	struct connection fresh = {};
	struct real *real;
	int may_begin;

	*is_new = 0;
	if (known && !(is_syn && known->state == CONN_CLOSING)) {
		real = usable(known->real, known->generation, 1);
		if (real) {
			known->seen = bpf_ktime_get_ns();
			if (ends)
				known->state = CONN_CLOSING;
			*index = known->real;
			return real;
		}
	}
	// In the middle of a connection only a hash finds the server it began with: here, or on
	// the director that died.
	may_begin = is_syn || flow->protocol != IPPROTO_TCP || service->flags & BY_HASH;
	if (!may_begin || pick(service, flow, index) < 0)
		return 0;
	real = usable(*index, 0, 0);
	if (!real)
		return 0;
	*is_new = 1;
	if (service->flags & ONE_PACKET)
		return real;
	fresh.real = *index;
	fresh.generation = real->generation;
	fresh.state = ends ? CONN_CLOSING : CONN_OPEN;
	fresh.seen = bpf_ktime_get_ns();
	bpf_map_update_elem(&connections, flow, &fresh, BPF_ANY);
	return real;
}

// Ports and flags at `offset`. Negative: cut off.
static __always_inline int transport(struct __sk_buff *skb, __u32 offset, struct flow *flow,
				     int *is_syn, int *ends)
{
	__u16 ports[2];
	__u8 flags;

	*is_syn = 0;
	*ends = 0;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)) < 0)
		return -1;
	flow->client_port = ports[0];
	flow->vip_port = ports[1];
	if (flow->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, offset + 13, &flags, 1) < 0)
			return -1;
		*is_syn = (flags & 0x12) == 0x02;
		*ends = (flags & 0x05) != 0;
	}
	return 0;
}

static __always_inline int lower_ttl(struct __sk_buff *skb, __u32 offset, __u8 ttl)
{
	__u16 old = bpf_htons((__u16)ttl << 8), new = bpf_htons((__u16)(ttl - 1) << 8);
	__u8 less = ttl - 1;

	if (bpf_l3_csum_replace(skb, offset + offsetof(struct iphdr, check), old, new, 2) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, offset + offsetof(struct iphdr, ttl), &less, 1, 0);
}

// An ICMP error about a packet that a real server sent as the virtual address: the inner header
// says which connection.
static __always_inline int icmp_v4(struct __sk_buff *skb, __u32 offset, __u8 ttl)
{
	struct icmphdr icmp;
	struct iphdr inner;
	struct flow flow = {};
	struct service *service;
	struct connection *known;
	struct real *real;
	__u16 ports[2];
	__u32 at = offset + sizeof(icmp), index;

	if (bpf_skb_load_bytes(skb, offset, &icmp, sizeof(icmp)) < 0)
		return LEAVE;
	if (icmp.type != ICMP_DEST_UNREACH && icmp.type != ICMP_TIME_EXCEEDED &&
	    icmp.type != ICMP_PARAMETERPROB)
		return LEAVE;
	if (bpf_skb_load_bytes(skb, at, &inner, sizeof(inner)) < 0 || inner.version != 4 ||
	    inner.ihl < 5)
		return LEAVE;
	if (inner.frag_off & bpf_htons(IP_OFFSET))
		return LEAVE;
	if (inner.protocol != IPPROTO_TCP && inner.protocol != IPPROTO_UDP)
		return LEAVE;
	if (bpf_skb_load_bytes(skb, at + inner.ihl * 4, ports, sizeof(ports)) < 0)
		return LEAVE;
	map_v4(&flow.vip, inner.saddr);
	map_v4(&flow.client, inner.daddr);
	flow.vip_port = ports[0];
	flow.client_port = ports[1];
	flow.protocol = inner.protocol;
	service = find_service(&flow, AF_INET);
	if (!service)
		return LEAVE;
	known = bpf_map_lookup_elem(&connections, &flow);
	if (known) {
		index = known->real;
		real = usable(index, known->generation, 1);
	} else {
		if (!(service->flags & BY_HASH) || pick(service, &flow, &index) < 0)
			return LEAVE;
		real = usable(index, 0, 0);
	}
	if (!real || real->flags & REAL_LOCAL)
		return LEAVE;
	if (lower_ttl(skb, ETH_HLEN, ttl) < 0)
		return TC_ACT_SHOT;
	return deliver(skb, real, index, 0);
}

static __always_inline int ipv4(struct __sk_buff *skb)
{
	struct iphdr ip;
	struct flow flow = {};
	struct fragment_key key = {};
	struct service *service;
	struct real *real;
	int is_syn, ends, is_new;
	__u32 index = 0, offset;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) < 0 || ip.ihl < 5)
		return LEAVE;
	if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP &&
	    ip.protocol != IPPROTO_ICMP)
		return LEAVE;
	offset = ETH_HLEN + ip.ihl * 4;
	fragment = bpf_ntohs(ip.frag_off);
	if (fragment & (IP_OFFSET | IP_MORE)) {
		map_v4(&key.source, ip.saddr);
		map_v4(&key.destination, ip.daddr);
		key.id = ip.id;
		key.protocol = ip.protocol;
	}
	if (fragment & IP_OFFSET) {
		struct connection *first = bpf_map_lookup_elem(&fragments, &key);

		if (!first)
			return LEAVE;
		index = first->real;
		real = usable(index, first->generation, 1);
		if (!real || real->flags & REAL_LOCAL)
			return LEAVE;
		if (ip.ttl <= 1 || lower_ttl(skb, ETH_HLEN, ip.ttl) < 0)
			return TC_ACT_SHOT;
		return deliver(skb, real, index, 0);
	}
	if (ip.protocol == IPPROTO_ICMP)
		return ip.ttl > 1 ? icmp_v4(skb, offset, ip.ttl) : LEAVE;

	map_v4(&flow.client, ip.saddr);
	map_v4(&flow.vip, ip.daddr);
	flow.protocol = ip.protocol;
	if (transport(skb, offset, &flow, &is_syn, &ends) < 0)
		return LEAVE;
	service = find_service(&flow, AF_INET);
	if (!service)
		return LEAVE;
	real = route(service, &flow, is_syn, ends, &index, &is_new);
	if (!real)
		return LEAVE;
	if (fragment & IP_MORE) {
		struct connection first = {};

		first.real = index;
		first.generation = real->generation;
		bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
	}
	if (!(real->flags & REAL_LOCAL)) {
		if (ip.ttl <= 1 || lower_ttl(skb, ETH_HLEN, ip.ttl) < 0)
			return TC_ACT_SHOT;
	}
	return deliver(skb, real, index, is_new);
}

// As icmp_v4: "packet too big" above all, without which IPv6 connections hang.
static __always_inline int icmp_v6(struct __sk_buff *skb, __u8 hops)
{
	struct icmp6hdr icmp;
	struct ipv6hdr inner;
	struct flow flow = {};
	struct service *service;
	struct connection *known;
	struct real *real;
	__u16 ports[2];
	__u32 at = ETH_HLEN + sizeof(struct ipv6hdr), index;
	__u8 less = hops - 1;

	if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)) < 0)
		return LEAVE;
	if (icmp.icmp6_type < ICMPV6_DEST_UNREACH || icmp.icmp6_type > ICMPV6_PARAMPROB)
		return LEAVE;
	at += sizeof(icmp);
	if (bpf_skb_load_bytes(skb, at, &inner, sizeof(inner)) < 0)
		return LEAVE;
	if (inner.nexthdr != IPPROTO_TCP && inner.nexthdr != IPPROTO_UDP)
		return LEAVE;
	if (bpf_skb_load_bytes(skb, at + sizeof(inner), ports, sizeof(ports)) < 0)
		return LEAVE;
	map_v6(&flow.vip, &inner.saddr);
	map_v6(&flow.client, &inner.daddr);
	flow.vip_port = ports[0];
	flow.client_port = ports[1];
	flow.protocol = inner.nexthdr;
	service = find_service(&flow, AF_INET6);
	if (!service)
		return LEAVE;
	known = bpf_map_lookup_elem(&connections, &flow);
	if (known) {
		index = known->real;
		real = usable(index, known->generation, 1);
	} else {
		if (!(service->flags & BY_HASH) || pick(service, &flow, &index) < 0)
			return LEAVE;
		real = usable(index, 0, 0);
	}
	if (!real || real->flags & REAL_LOCAL)
		return LEAVE;
	if (bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &less, 1, 0) < 0)
		return TC_ACT_SHOT;
	return deliver(skb, real, index, 0);
}

static __always_inline int ipv6(struct __sk_buff *skb)
{
	struct ipv6hdr ip;
	struct flow flow = {};
	struct service *service;
	struct real *real;
	int is_syn, ends, is_new;
	__u32 index = 0;
	__u8 hops;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) < 0)
		return LEAVE;
	if (ip.nexthdr == IPPROTO_ICMPV6)
		return ip.hop_limit > 1 ? icmp_v6(skb, ip.hop_limit) : LEAVE;
	if (ip.nexthdr != IPPROTO_TCP && ip.nexthdr != IPPROTO_UDP)
		return LEAVE;
	map_v6(&flow.client, &ip.saddr);
	map_v6(&flow.vip, &ip.daddr);
	flow.protocol = ip.nexthdr;
	if (transport(skb, ETH_HLEN + sizeof(ip), &flow, &is_syn, &ends) < 0)
		return LEAVE;
	service = find_service(&flow, AF_INET6);
	if (!service)
		return LEAVE;
	real = route(service, &flow, is_syn, ends, &index, &is_new);
	if (!real)
		return LEAVE;
	if (!(real->flags & REAL_LOCAL)) {
		if (ip.hop_limit <= 1)
			return TC_ACT_SHOT;
		hops = ip.hop_limit - 1;
		if (bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hops,
					1, 0) < 0)
			return TC_ACT_SHOT;
	}
	return deliver(skb, real, index, is_new);
}

SEC("classifier")
int direct_routing(struct __sk_buff *skb)
{
	// Frames for others, seen in promiscuous mode, are none of ours.
	if (skb->pkt_type != PACKET_HOST)
		return LEAVE;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return ipv4(skb);
	case bpf_htons(ETH_P_IPV6):
		return ipv6(skb);
	default:
		return LEAVE;
	}
}

char _license[] SEC("license") = "GPL";
