"""``python -m mergevq_mm``."""

from mergevq_mm.cli import main

if __name__ == '__main__':
    main()
