// SPDX-License-Identifier: GPL-2.0
//
// What a packet is about, read the same way on tc and XDP.

#ifndef PACKET_H
#define PACKET_H

#define IP_OFFSET 0x1fff
#define IP_MORE 0x2000
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_DEST 60
#define MAX_EXTENSIONS 6
// Headers beyond this are not looked at.
#define MAX_OFFSET 512

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

// What it is.
#define PLAIN 0
#define ERROR 1           // ICMP about a packet that a real server sent: `flow` is that connection's
#define FRAGMENT 2        // not the first: no ports
// Or why it is none of ours.
#define FOREIGN -1
#define SHORT -2          // the headers are not all there

struct packet {
	struct flow flow;
	__u32 fragment_id;
	__u8 tcp;         // flags
	__u8 ttl;
	__u8 first;       // of several fragments
	__u8 pad;
};

#define AT(TYPE, OFFSET)                                                   \
	({                                                                 \
		TYPE *at_ = data + (OFFSET);                               \
		if ((void *)(at_ + 1) > end)                               \
			return SHORT;                                      \
		at_;                                                       \
	})

static __always_inline void map_v4(struct address *to, __u32 ip)
{
	to->word[0] = 0;
	to->word[1] = 0;
	to->word[2] = 0;
	to->word[3] = ip;
}

static __always_inline void map_v6(struct address *to, const struct in6_addr *ip)
{
	to->word[0] = ip->in6_u.u6_addr32[0];
	to->word[1] = ip->in6_u.u6_addr32[1];
	to->word[2] = ip->in6_u.u6_addr32[2];
	to->word[3] = ip->in6_u.u6_addr32[3];
}

static __always_inline int read_transport(void *data, void *end, __u32 offset, struct packet *p)
{
	if (p->flow.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp;
		__u8 *bytes;

		tcp = AT(struct tcphdr, offset);
		bytes = (__u8 *)tcp;
		p->flow.client_port = tcp->source;
		p->flow.vip_port = tcp->dest;
		p->tcp = bytes[13];
	} else {
		struct udphdr *udp = AT(struct udphdr, offset);

		p->flow.client_port = udp->source;
		p->flow.vip_port = udp->dest;
	}
	return PLAIN;
}

// The connection is the inner packet's, turned round: the virtual address sent it.
static __always_inline int read_error_v4(void *data, void *end, __u32 offset, struct packet *p)
{
	struct icmphdr *icmp = AT(struct icmphdr, offset);
	struct iphdr *inner;
	__u16 *ports;

	if (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED &&
	    icmp->type != ICMP_PARAMETERPROB)
		return FOREIGN;
	offset += sizeof(*icmp);
	inner = AT(struct iphdr, offset);
	if (inner->version != 4 || inner->ihl < 5 || inner->frag_off & bpf_htons(IP_OFFSET))
		return FOREIGN;
	if (inner->protocol != IPPROTO_TCP && inner->protocol != IPPROTO_UDP)
		return FOREIGN;
	map_v4(&p->flow.vip, inner->saddr);
	map_v4(&p->flow.client, inner->daddr);
	p->flow.protocol = inner->protocol;
	offset += inner->ihl * 4;
	ports = (__u16 *)AT(__u32, offset);
	p->flow.vip_port = ports[0];
	p->flow.client_port = ports[1];
	return ERROR;
}

static __always_inline int read_v4(void *data, void *end, struct packet *p)
{
	struct iphdr *ip = AT(struct iphdr, ETH_HLEN);
	__u32 offset = ETH_HLEN + ip->ihl * 4;
	__u16 fragment = bpf_ntohs(ip->frag_off);

	if (ip->ihl < 5)
		return FOREIGN;
	p->flow.family = AF_INET;
	p->ttl = ip->ttl;
	if (ip->protocol == IPPROTO_ICMP && !(fragment & IP_OFFSET))
		return read_error_v4(data, end, offset, p);
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return FOREIGN;
	map_v4(&p->flow.client, ip->saddr);
	map_v4(&p->flow.vip, ip->daddr);
	p->flow.protocol = ip->protocol;
	if (fragment & (IP_OFFSET | IP_MORE)) {
		p->fragment_id = ip->id;
		if (fragment & IP_OFFSET)
			return FRAGMENT;
		p->first = 1;
	}
	return read_transport(data, end, offset, p);
}

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__u16 offset;     // in the upper 13 bits; the lowest: more follow
	__u32 id;
};

struct extension {
	__u8 next;
	__u8 length;      // in units of 8 bytes, without the first
};

// "Packet too big" above all, without which IPv6 connections hang.
static __always_inline int read_error_v6(void *data, void *end, __u32 offset, struct packet *p)
{
	struct icmp6hdr *icmp = AT(struct icmp6hdr, offset);
	struct ipv6hdr *inner;
	__u16 *ports;
	__u8 next;

	if (icmp->icmp6_type < ICMPV6_DEST_UNREACH || icmp->icmp6_type > ICMPV6_PARAMPROB)
		return FOREIGN;
	offset += sizeof(*icmp);
	inner = AT(struct ipv6hdr, offset);
	map_v6(&p->flow.vip, &inner->saddr);
	map_v6(&p->flow.client, &inner->daddr);
	next = inner->nexthdr;
	offset += sizeof(*inner);
	if (next == NEXTHDR_FRAGMENT) {
		struct fragment_header *fragment = AT(struct fragment_header, offset);

		if (fragment->offset & bpf_htons(0xfff8))
			return FOREIGN;
		next = fragment->next;
		offset += sizeof(*fragment);
	}
	if (next != IPPROTO_TCP && next != IPPROTO_UDP)
		return FOREIGN;
	p->flow.protocol = next;
	ports = (__u16 *)AT(__u32, offset);
	p->flow.vip_port = ports[0];
	p->flow.client_port = ports[1];
	return ERROR;
}

static __always_inline int read_v6(void *data, void *end, struct packet *p)
{
	struct ipv6hdr *ip = AT(struct ipv6hdr, ETH_HLEN);
	__u32 offset = ETH_HLEN + sizeof(*ip);
	__u8 next = ip->nexthdr;
	int i;

	p->flow.family = AF_INET6;
	p->ttl = ip->hop_limit;
	map_v6(&p->flow.client, &ip->saddr);
	map_v6(&p->flow.vip, &ip->daddr);
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		if (offset > MAX_OFFSET)
			return FOREIGN;
		if (next == IPPROTO_TCP || next == IPPROTO_UDP) {
			p->flow.protocol = next;
			return read_transport(data, end, offset, p);
		}
		if (next == IPPROTO_ICMPV6)
			return read_error_v6(data, end, offset, p);
		if (next == NEXTHDR_FRAGMENT) {
			struct fragment_header *fragment = AT(struct fragment_header, offset);
			__u16 where = bpf_ntohs(fragment->offset);

			p->fragment_id = fragment->id;
			next = fragment->next;
			if (where & 0xfff8) {
				p->flow.protocol = next;
				return next == IPPROTO_TCP || next == IPPROTO_UDP ? FRAGMENT : FOREIGN;
			}
			p->first = where & 1;
			offset += sizeof(*fragment);
		} else if (next == NEXTHDR_HOP || next == NEXTHDR_ROUTING || next == NEXTHDR_DEST) {
			struct extension *extension = AT(struct extension, offset);

			next = extension->next;
			offset += (extension->length + 1) * 8;
		} else {
			return FOREIGN;
		}
	}
	return FOREIGN;
}

static __always_inline int read_packet(void *data, void *end, struct packet *p)
{
	struct ethhdr *frame = AT(struct ethhdr, 0);

	if (frame->h_proto == bpf_htons(ETH_P_IP))
		return read_v4(data, end, p);
	if (frame->h_proto == bpf_htons(ETH_P_IPV6))
		return read_v6(data, end, p);
	return FOREIGN;
}

// As a router does. Negative: it can't go on.
static __always_inline int lower_ttl(void *data, void *end, __u8 family)
{
	if (family == AF_INET) {
		struct iphdr *ip = AT(struct iphdr, ETH_HLEN);
		__u32 check = ip->check;

		if (ip->ttl <= 1)
			return -1;
		// RFC 1624, for a word that goes down by 0x0100.
		check += bpf_htons(0x0100);
		ip->check = check + (check >= 0xffff);
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = AT(struct ipv6hdr, ETH_HLEN);

		if (ip->hop_limit <= 1)
			return -1;
		ip->hop_limit--;
	}
	return 0;
}

#endif
