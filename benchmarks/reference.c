/* El límite: el mismo trabajo en C, sobre epoll y sin nada más.

   Líneas en "\n" o "\r\n", clientes sin terminador, DESCONEXION, mayúsculas de ASCII y de las letras acentuadas de
   Latin-1 en UTF-8. Aquí no hay límites ni plazos: es lo menos que puede costar, no un servidor para usar.

   Uso: reference        (escucha en 127.0.0.1, en un puerto libre que escribe en la salida) */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE (256 * 1024) /* lo que asyncio lee de una vez */
#define EVENTS 256

static const char GOODBYE[] = "DESCONEXION";
static const char FAREWELL[] = "Conexi\xc3\xb3n cerrada";
#define GOODBYE_SIZE (sizeof GOODBYE - 1)
#define FAREWELL_SIZE (sizeof FAREWELL - 1)

struct connection {
    int fd, decided, ended, watching_output;
    char *pending; /* media línea */
    size_t pending_size, pending_room;
    char *output; /* lo que el sistema aún no ha admitido */
    size_t output_size, output_sent, output_room;
};

static int epoll;
static char input[READ_SIZE + 16];
static char *replies;
static size_t replies_room;

static void *grow(void *block, size_t *room, size_t needed) {
    if (needed <= *room)
        return block;
    while (*room < needed)
        *room = *room ? *room * 2 : 256;
    block = realloc(block, *room);
    if (!block)
        abort();
    return block;
}

/* Mayúsculas: nunca cambian el tamaño en lo que aquí se traduce. Los trozos ASCII van de una vez, en un bucle sin
   dependencias que el compilador convierte en instrucciones vectoriales. */
static void upper(char *to, const char *from, size_t size) {
    size_t i = 0;
    while (i < size) {
        size_t stop = size - i < 64 ? size : i + 64;
        unsigned char high = 0;
        for (size_t j = i; j < stop; j++) {
            unsigned char c = (unsigned char)from[j];
            high |= c;
            to[j] = (char)(c - (((unsigned char)(c - 'a') < 26) << 5));
        }
        if (high & 0x80)
            for (size_t j = i ? i : 1; j < stop; j++) {
                unsigned char c = (unsigned char)from[j];
                if ((unsigned char)from[j - 1] == 0xC3 && c >= 0xA0 && c <= 0xBE && c != 0xB7)
                    to[j] = (char)(c - 32); /* à..þ menos ÷ */
            }
        i = stop;
    }
}

static void finish(struct connection *c) {
    epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    free(c->pending);
    free(c->output);
    free(c);
}

/* Devuelve -1 si la conexión se rompió. */
static int send_out(struct connection *c, const char *data, size_t size) {
    if (!c->output_size) {
        ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return -1;
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        }
    }
    if (size) {
        c->output = grow(c->output, &c->output_room, c->output_size + size);
        memcpy(c->output + c->output_size, data, size);
        c->output_size += size;
        if (!c->watching_output) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
            c->watching_output = 1;
        }
    } else if (c->ended && !c->output_size)
        shutdown(c->fd, SHUT_WR);
    return 0;
}

static int flush(struct connection *c) {
    ssize_t sent = send(c->fd, c->output + c->output_sent, c->output_size - c->output_sent, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN ? 0 : -1;
    c->output_sent += (size_t)sent;
    if (c->output_sent == c->output_size) {
        c->output_sent = c->output_size = 0;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
        c->watching_output = 0;
        if (c->ended)
            shutdown(c->fd, SHUT_WR);
    }
    return 0;
}

static int say_goodbye(struct connection *c, size_t before, const char *terminator, size_t terminator_size) {
    memcpy(replies + before, FAREWELL, FAREWELL_SIZE);
    memcpy(replies + before + FAREWELL_SIZE, terminator, terminator_size);
    c->ended = 1;
    return send_out(c, replies, before + FAREWELL_SIZE + terminator_size);
}

/* Responde las líneas enteras de data y guarda el resto. */
static int answer(struct connection *c, const char *data, size_t size) {
    size_t done = 0;
    const char *end;
    replies = grow(replies, &replies_room, size + FAREWELL_SIZE + 2);
    while ((end = memchr(data + done, '\n', size - done))) {
        const char *line = data + done;
        size_t line_size = (size_t)(end - line) + 1;
        size_t terminator = line_size > 1 && line[line_size - 2] == '\r' ? 2 : 1;
        if (line_size - terminator == GOODBYE_SIZE && !memcmp(line, GOODBYE, GOODBYE_SIZE))
            return say_goodbye(c, done, end + 1 - terminator, terminator);
        upper(replies + done, line, line_size);
        done += line_size;
        c->decided = 1;
    }
    if (!c->decided) { /* sin terminador todavía: se responde lo que haya */
        if (size == GOODBYE_SIZE && !memcmp(data, GOODBYE, GOODBYE_SIZE))
            return say_goodbye(c, 0, "", 0);
        upper(replies, data, size);
        c->pending_size = 0;
        return send_out(c, replies, size);
    }
    size_t rest = size - done;
    if (data == c->pending)
        memmove(c->pending, data + done, rest);
    else {
        c->pending = grow(c->pending, &c->pending_room, rest);
        if (rest)
            memcpy(c->pending, data + done, rest);
    }
    c->pending_size = rest;
    return done ? send_out(c, replies, done) : 0;
}

static int receive(struct connection *c) {
    ssize_t size = recv(c->fd, input, READ_SIZE, 0);
    if (size < 0)
        return errno == EAGAIN ? 0 : -1;
    if (!size) {
        if (!c->output_size)
            return -1;
        /* No enviará más, pero quizá lea: antes de cerrar se le entrega lo que se le debe. */
        struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
        return 0;
    }
    if (c->ended)
        return 0;
    if (!c->pending_size)
        return answer(c, input, (size_t)size);
    c->pending = grow(c->pending, &c->pending_room, c->pending_size + (size_t)size);
    memcpy(c->pending + c->pending_size, input, (size_t)size);
    c->pending_size += (size_t)size;
    if (!memchr(input, '\n', (size_t)size))
        return 0; /* sigue a medias: no se vuelve a recorrer */
    return answer(c, c->pending, c->pending_size);
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        return 1;
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    c = calloc(1, sizeof *c);
                    if (!c)
                        abort();
                    c->fd = fd;
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    event.data.ptr = c;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            int broken = 0;
            if (events[i].events & EPOLLOUT)
                broken = flush(c);
            if (!broken && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                broken = receive(c);
            if (broken)
                finish(c);
        }
    }
}
