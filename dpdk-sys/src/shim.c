#include "shim.h"
#include <errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <stdio.h>
#include <string.h>

int thymus_port_start(uint16_t port, uint16_t descriptors, uint32_t mbufs, uint32_t data_room, const char **step)
{
    struct rte_eth_conf conf;
    struct rte_eth_dev_info info;
    uint16_t receive = descriptors, transmit = 64;
    char name[RTE_MEMPOOL_NAMESIZE];
    int socket = rte_eth_dev_socket_id(port), done;

    memset(&conf, 0, sizeof(conf));
    *step = "asking the device";
    done = rte_eth_dev_info_get(port, &info);
    if (done != 0)
        return done;
    if (info.max_rx_pktlen > 1518 && info.max_mtu > RTE_ETHER_MTU)
        conf.rxmode.mtu = RTE_MIN(info.max_mtu, 9216);
    conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
    *step = "configuring the port";
    /* One transmit queue that nothing is sent on: some drivers start no port without. */
    done = rte_eth_dev_configure(port, 1, 1, &conf);
    if (done != 0 && conf.rxmode.mtu != 0) {
        conf.rxmode.mtu = 0;
        done = rte_eth_dev_configure(port, 1, 1, &conf);
    }
    if (done != 0)
        return done;
    *step = "sizing the queues";
    done = rte_eth_dev_adjust_nb_rx_tx_desc(port, &receive, &transmit);
    if (done != 0)
        return done;
    *step = "making the packet buffers";
    snprintf(name, sizeof(name), "thymus_%u", port);
    struct rte_mempool *pool = rte_pktmbuf_pool_create(name, mbufs, 250, 0, data_room + RTE_PKTMBUF_HEADROOM,
                                                       socket < 0 ? SOCKET_ID_ANY : socket);
    if (pool == NULL)
        return -rte_errno;
    *step = "setting up the receive queue";
    done = rte_eth_rx_queue_setup(port, 0, receive, socket < 0 ? 0 : socket, NULL, pool);
    if (done != 0)
        return done;
    *step = "setting up the transmit queue";
    done = rte_eth_tx_queue_setup(port, 0, transmit, socket < 0 ? 0 : socket, NULL);
    if (done != 0)
        return done;
    *step = "starting the port";
    done = rte_eth_dev_start(port);
    if (done != 0)
        return done;
    /* A device that cannot be promiscuous (a ring, a file) gets everything anyhow. */
    rte_eth_promiscuous_enable(port);
    return 0;
}

void thymus_port_stop(uint16_t port)
{
    rte_eth_dev_stop(port);
    rte_eth_dev_close(port);
}

uint16_t thymus_rx_burst(uint16_t port, uint16_t queue, struct thymus_row *rows, uint16_t max)
{
    struct rte_mbuf *mbufs[64];
    uint16_t count = rte_eth_rx_burst(port, queue, mbufs, max < 64 ? max : 64), at;

    for (at = 0; at < count; at++)
        rte_prefetch0(rte_pktmbuf_mtod(mbufs[at], void *));
    for (at = 0; at < count; at++) {
        rows[at].mbuf = mbufs[at];
        rows[at].data = rte_pktmbuf_mtod(mbufs[at], const uint8_t *);
        rows[at].data_len = rte_pktmbuf_data_len(mbufs[at]);
        rows[at].packet_len = rte_pktmbuf_pkt_len(mbufs[at]);
        rows[at].segments = mbufs[at]->nb_segs;
    }
    return count;
}

uint32_t thymus_copy(const void *mbuf, uint8_t *target, uint32_t length)
{
    const struct rte_mbuf *segment = mbuf;
    uint32_t copied = 0;

    for (; segment != NULL && copied < length; segment = segment->next) {
        uint32_t part = RTE_MIN((uint32_t)rte_pktmbuf_data_len(segment), length - copied);
        memcpy(target + copied, rte_pktmbuf_mtod(segment, const uint8_t *), part);
        copied += part;
    }
    return copied;
}

void thymus_free_bulk(const struct thymus_row *rows, uint16_t count)
{
    struct rte_mbuf *mbufs[64];
    uint16_t at;

    for (at = 0; at < count && at < 64; at++)
        mbufs[at] = rows[at].mbuf;
    rte_pktmbuf_free_bulk(mbufs, at);
}

int thymus_port_missed(uint16_t port, uint64_t *missed, uint64_t *errors)
{
    struct rte_eth_stats stats;
    int done = rte_eth_stats_get(port, &stats);

    if (done == 0) {
        *missed = stats.imissed + stats.rx_nombuf;
        *errors = stats.ierrors;
    }
    return done;
}

int thymus_port_address(uint16_t port, uint8_t *address)
{
    struct rte_ether_addr own;
    int done = rte_eth_macaddr_get(port, &own);

    if (done == 0)
        memcpy(address, own.addr_bytes, RTE_ETHER_ADDR_LEN);
    return done;
}

int thymus_port_link(uint16_t port)
{
    struct rte_eth_link link;
    int done = rte_eth_link_get_nowait(port, &link);

    return done != 0 ? done : link.link_status == RTE_ETH_LINK_UP;
}
