//! Log set-up, counter lines, packet log.
