//! Files and standard input: change detection, last good versions.
