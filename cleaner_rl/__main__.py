"""``python -m cleaner_rl`` lists the commands and runs them."""

from cleaner_rl.commands import main

if __name__ == "__main__":
    main()
