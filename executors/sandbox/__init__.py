"""Runs a job's steps without any daemon: images unpacked on disk, processes in namespaces.

The images of a step are had and unpacked here, in this order:

    references                  what `alpine` means: docker.io/library/alpine:latest
    images                      ImageStore.get(reference): unpacked, pulled when it isn't there
    registry_client, archives   where it comes from: a Bundle of config and layers
    manifests, blobs            the JSON between them; digests, decompression and its limits
    layers (tars, tree)         layers -> one root file system; trusts nothing an archive says

A job is run in this order:

    executor                    check, open, reap
    workspaces (removal)        an attempt's directory, locked while it is used
    workspace                   step -> sandbox -> result
    skeleton, users, host       what lies over the image's root; its user; the host in its place
    convert                     step -> arguments of bwrap (found by `program`)
    process (spawn, pidfd)      start, output, kill
    chroot                      what is done first by a worker in a chroot
    limits, network             what is added while the sandbox is held before its command
"""
